"""Every metric that Raymill itself exports: name, labels and meaning; Ray puts `ray_` before the names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One metric. Counters get `_total` from Ray's exporter."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()


RUN = ("run", "model")
TRAIN_ROWS = Metric("raymill_train_rows", "counter", "Rows that a training run has learned from.", RUN)
TRAIN_PACE = Metric("raymill_train_rows_per_second", "gauge", "Rows a second of a training run.", RUN)
TRAIN_LOSS = Metric("raymill_train_loss", "gauge", "Mean loss over the last second of training.", RUN)
TRAIN_EPOCH = Metric("raymill_train_epoch", "gauge", "Epoch that a training run is in, from 1.", RUN)
TRAIN_WORKERS = Metric("raymill_train_workers", "gauge", "Workers that a training run has now.", RUN)
TRAIN_WAIT = Metric("raymill_train_wait_ms", "gauge", "Milliseconds that a step waits for its batch.", RUN)

METRICS = (TRAIN_ROWS, TRAIN_PACE, TRAIN_LOSS, TRAIN_EPOCH, TRAIN_WORKERS, TRAIN_WAIT)
