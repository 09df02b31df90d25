"""Data parallel: every worker sees its share of each global batch, and all keep one model."""

from __future__ import annotations

from collections.abc import Callable

from raymill.registry import import_target
from raymill.train.base import Outcome, TrainJob


class DataParallel:
    """Synchronous training with the framework's own collectives, which the flavor names."""

    def fit(self, job: TrainJob) -> Outcome:
        collective: Callable[[TrainJob], Outcome] = import_target(job.flavor.collective, "collective trainer")
        return collective(job)
