"""TensorFlow in this process: the loop of the distributed trainer with no one else in its group."""

from __future__ import annotations

from raymill.train import local_loop
from raymill.train.base import Outcome, TrainJob
from raymill.train.tf_ddp import make_learner


def fit(job: TrainJob) -> Outcome:
    """Train and return the learner."""
    return local_loop.run(job, make_learner(job))
