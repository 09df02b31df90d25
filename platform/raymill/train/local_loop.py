"""The training loop in this process: alone in its group, heard by a study or by the run's log."""

from __future__ import annotations

from collections.abc import Mapping

from raymill.runs import Point, RunLog, Runs
from raymill.train.base import Outcome, TrainJob
from raymill.train.loop import Alone, StepLearner, TrainingLoop, Write
from raymill.train.ray_metrics import RayMetrics


def open_log(job: TrainJob) -> RunLog | None:
    """Return the log of a run in this process, heard by Ray's metrics if Ray is there; None for a trial."""
    if job.trial:
        return None
    import ray

    listeners = [RayMetrics(job.run, job.spec.model)] if ray.is_initialized() else []
    return RunLog(Runs(job.spec.runs), job.run, listeners=listeners)


class Reporting(Alone):
    """Tells a trial's study of each epoch, and else the run's log of each second; keeps no checkpoints."""

    def __init__(self, job: TrainJob) -> None:
        self._trial, self._log = job.trial, open_log(job)

    def save(self, metrics: dict[str, float], write: Write, *, wait: bool) -> None:
        if self._trial and "epoch" in metrics:
            self._trial.report(metrics, write)

    def tell(self, point: Point, new_rows: int) -> None:
        if self._log:
            self._log.point(point, new_rows)

    def tell_epoch(self, rows: int, entry: Mapping[str, float]) -> None:
        if self._log:
            self._log.epoch(rows, entry)

    def close(self) -> None:
        if self._log:
            self._log.close()


def run(job: TrainJob, learner: StepLearner) -> Outcome:
    """Train `learner` here and return it, with the best weights where early stopping kept them."""
    group = Reporting(job)
    try:
        loop = TrainingLoop(job, learner, group)
        if job.trial and job.trial.resume:
            loop.load(job.trial.resume)
        loop.run()
    finally:
        group.close()
    return loop.outcome()
