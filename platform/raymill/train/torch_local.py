"""torch in this process: the loop of the distributed trainer with no one else in its group."""

from __future__ import annotations

from raymill.train.base import Outcome, TrainJob
from raymill.train.loop import Alone, TrainingLoop, Write


def fit(job: TrainJob) -> Outcome:
    """Train and return the learner."""
    import torch

    from raymill.flavors.torch_learner import TorchLearner

    torch.set_num_threads(max(1, int(job.spec.cpus_per_worker)))
    device = "cuda" if job.spec.gpu else "cpu"
    learner = TorchLearner(job.encoder, job.spec.flavor_config(), seed=job.spec.seed, device=device)
    loop = TrainingLoop(job, learner, Reporting(job))
    if job.trial and job.trial.resume:
        loop.load(job.trial.resume)
    loop.run()
    return Outcome(learner, loop.rows_seen, loop.history, loop.visits_G())


class Reporting(Alone):
    """Tells the study of each epoch; keeps no checkpoints of its own."""

    def __init__(self, job: TrainJob) -> None:
        self._trial = job.trial

    def save(self, metrics: dict[str, float], write: Write, *, wait: bool) -> None:
        if self._trial and "epoch" in metrics:
            self._trial.report(metrics, write)
