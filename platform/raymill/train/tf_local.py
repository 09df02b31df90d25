"""TensorFlow in this process: the loop of the distributed trainer with no one else in its group."""

from __future__ import annotations

from raymill.train.base import Outcome, TrainJob
from raymill.train.loop import Reporting, TrainingLoop
from raymill.train.tf_ddp import make_learner


def fit(job: TrainJob) -> Outcome:
    """Train and return the learner."""
    loop = TrainingLoop(job, make_learner(job), Reporting(job))
    if job.trial and job.trial.resume:
        loop.load(job.trial.resume)
    loop.run()
    return loop.outcome()
