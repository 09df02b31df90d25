"""torch DistributedDataParallel through Ray Train: gloo on CPUs, NCCL on GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raymill.errors import Conflict
from raymill.train.base import Outcome, TrainJob
from raymill.train.loop import Alone, Group, TrainingLoop
from raymill.train.ray_workers import run_workers

if TYPE_CHECKING:
    from raymill.flavors.torch_learner import TorchLearner


def fit(job: TrainJob) -> Outcome:
    """Train on `workers` Ray Train workers and return the learner with the last checkpoint's weights."""
    from ray.train.torch import TorchConfig, TorchTrainer

    if job.start is not None:
        _check_start(job)
    result = run_workers(
        job,
        TorchTrainer,
        work,
        torch_config=TorchConfig(backend="nccl" if job.spec.gpu else "gloo"),
    )
    loop = TrainingLoop(job, make_learner(job), Alone())
    with result.checkpoint.as_directory() as directory:
        loop.load(Path(directory))
    return loop.outcome()


def work(job: TrainJob, group: Group) -> TrainingLoop:
    """Return the loop of this Ray Train worker."""
    import ray.train.torch
    from torch.nn.parallel import DistributedDataParallel

    device = ray.train.torch.get_device()
    learner = make_learner(job, str(device))
    if group.size > 1:
        ids = [device] if device.type == "cuda" else None
        learner.wrap(lambda network: DistributedDataParallel(network, device_ids=ids))
    return TrainingLoop(job, learner, group)


def make_learner(job: TrainJob, device: str = "cpu") -> TorchLearner:
    from raymill.flavors.torch_learner import TorchLearner

    return TorchLearner(job.encoder, job.spec.flavor_config(), seed=job.spec.seed, device=device)


def _check_start(job: TrainJob) -> None:
    """Refuse, before any worker starts, weights that the spec's network has no place for."""
    try:
        TrainingLoop(job, make_learner(job), Alone())
    except (KeyError, RuntimeError) as error:
        raise Conflict(
            f"the network of the spec is not that of the version this run continues from: {error}; keep "
            "flavors.torch as it was, or train anew with read order full"
        ) from error
