"""A run's progress as metrics of Ray's, which Prometheus scrapes from every node."""

from __future__ import annotations

from typing import Any

from raymill.metrics import (
    METRICS,
    TRAIN_EPOCH,
    TRAIN_LOSS,
    TRAIN_PACE,
    TRAIN_ROWS,
    TRAIN_WAIT,
    TRAIN_WORKERS,
)
from raymill.runs import Point


class RayMetrics:
    """Listens to a run's log."""

    def __init__(self, run: str, model: str) -> None:
        from ray.util.metrics import Counter, Gauge

        kinds = {"counter": Counter, "gauge": Gauge}
        self._metrics: dict[str, Any] = {}
        for metric in METRICS:
            made: Any = kinds[metric.kind](metric.name, description=metric.help, tag_keys=metric.labels)
            made.set_default_tags({"run": run, "model": model})
            self._metrics[metric.name] = made

    def __call__(self, point: Point, new_rows: int) -> None:
        if new_rows:  # Ray refuses to count nothing
            self._metrics[TRAIN_ROWS.name].inc(new_rows)
        for metric, value in (
            (TRAIN_PACE, point.rows_per_second), (TRAIN_LOSS, point.loss),
            (TRAIN_EPOCH, point.epoch), (TRAIN_WORKERS, point.workers), (TRAIN_WAIT, point.wait_ms),
        ):  # fmt: skip
            self._metrics[metric.name].set(float(value))
