"""One rank of a data-parallel run without Ray: `python worker.py FLAVOR SPEC RANK PORTS OUTS`.

PORTS and OUTS have an entry a rank, with commas. The ranks meet in the framework's own collectives, over
ports of this machine, as Ray Train has them do; each writes what it ended with to its own of OUTS.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from raymill.config import load
from raymill.data import learn_encoder, take_snapshot
from raymill.fitting import FeaturePlan
from raymill.flavors import FLAVORS
from raymill.train.base import TrainJob
from raymill.train.loop import Alone, TrainingLoop
from raymill.train.spec import TrainSpec


class Rank(Alone):
    """One of several, with what `gather` needs; stores nothing."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def gather(self, mine: Any) -> list[Any]:
        if self.size == 1:
            return [mine]
        if self.exchange:
            return self.exchange(mine)
        import torch.distributed as dist

        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, mine)
        return parts


def make_job(spec: TrainSpec) -> TrainJob:
    snapshots = {role: take_snapshot(path) for role, path in spec.data.roles().items()}
    plan = FeaturePlan(spec.data.features, spec.data.target, spec.task, snapshots["train"].schema)
    encoder = learn_encoder(plan, snapshots["train"])
    return TrainJob(spec, "run", FLAVORS.load(spec.flavor)(), encoder, snapshots)


def torch_loop(job: TrainJob, group: Rank, ports: list[str]) -> TrainingLoop:
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from raymill.train.torch_ddp import make_learner

    learner = make_learner(job)
    if group.size > 1:
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{ports[0]}", rank=group.rank, world_size=group.size)
        learner.wrap(DistributedDataParallel)
    return TrainingLoop(job, learner, group)


def tensorflow_loop(job: TrainJob, group: Rank, ports: list[str]) -> TrainingLoop:
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": cluster, "task": {"type": "worker", "index": group.rank}}
    )
    from raymill.train.tf_ddp import work

    return work(job, group)


def wait_for(outs: list[Path], seconds: float = 60) -> None:
    """Return once every rank has written: it has left its last collective, which would break without us."""
    deadline = time.monotonic() + seconds
    while missing := [out.name for out in outs if not out.exists()]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not written {seconds:.0f} s after this rank had ended: {missing}")
        time.sleep(0.05)


def main(flavor: str, spec: str, rank: str, ports: str, outs: str) -> None:
    job = make_job(load(TrainSpec, spec, [f"flavor={flavor}"]))
    files = [Path(out) for out in outs.split(",")]
    group = Rank(int(rank), len(files))
    make = {"torch": torch_loop, "onnx": torch_loop, "tensorflow": tensorflow_loop}[flavor]
    loop = make(job, group, ports.split(","))
    loop.run()
    outcome = loop.outcome()
    weights = {name: value.tolist() for name, value in outcome.model.weights().items()}
    files[group.rank].write_text(json.dumps({"history": outcome.history, "weights": weights}))
    wait_for(files)
    os._exit(0)  # TensorFlow's servers would wait for each other


if __name__ == "__main__":
    main(*sys.argv[1:])
