"""A distributed trial's epochs, on their way from Ray Train's controller to the trial's process and Tune."""

from __future__ import annotations

from typing import Any

from ray.tune.integration.ray_train import TuneReportCallback


class EpochReports(TuneReportCallback):  # type: ignore[misc]
    """Passes on what rank 0 measured after an epoch; checkpoints inside one carry no metrics."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        if "epoch" in metrics[0]:
            super().after_report(run_context, metrics, None)
