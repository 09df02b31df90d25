"""torch DistributedDataParallel through Ray Train: gloo on CPUs, NCCL on GPUs.

The gradient of a step is that of the mean loss over the whole global batch, also where workers hold
unequal parts of it: DDP averages over workers, so each worker's summed loss is scaled by
workers / global rows. Rows seen and batches therefore do not depend on who computes them.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from raymill.data import Batch, Loader, LoaderConfig, LoaderState
from raymill.errors import Conflict, RaymillError
from raymill.evaluation import evaluate
from raymill.flavors.torch_flavor import TorchConfig
from raymill.progress import Progress
from raymill.repo.manifest import LEDGER_FILE
from raymill.storage import locate
from raymill.train.base import Outcome, TrainJob

EVALUATION_ROWS = 65_536  # rows of a global validation batch; no effect on the metrics
_POLL_S = "0.1"  # Ray Train's controller polls workers this often; its default of 2 s delays every report


def fit(job: TrainJob) -> Outcome:
    """Train on `workers` Ray Train workers and return the learner with the last checkpoint's weights."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", _POLL_S)
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # it prints every line twice
    from ray.train import (
        CheckpointConfig,
        FailureConfig,
        LoggingConfig,
        RunConfig,
        ScalingConfig,
        WorkerGroupError,
    )
    from ray.train.torch import TorchConfig as ProcessGroup
    from ray.train.torch import TorchTrainer

    if job.start is not None:
        _check_start(job)
    spec, runs = job.spec, locate(job.spec.runs)
    runs.make_directory()
    trainer = TorchTrainer(
        _work,
        train_loop_config={"job": job},
        torch_config=ProcessGroup(backend="nccl" if spec.gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=spec.workers, use_gpu=spec.gpu, resources_per_worker=spec.worker_resources()
        ),
        run_config=RunConfig(
            name=job.run,
            storage_path=runs.path,
            storage_filesystem=runs.filesystem,
            failure_config=FailureConfig(max_failures=spec.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=spec.checkpoint.keep),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        result = trainer.fit()
    except WorkerGroupError as error:
        raise _own(error) from error
    with result.checkpoint.as_directory() as directory:
        return _restore(job, Path(directory))


def _own(error: Any) -> Exception:
    """Return the first error that Raymill raised on a worker, or Ray's where none did."""
    failures = [getattr(failure, "_base_exc", failure) for failure in error.worker_failures.values()]
    return next((failure for failure in failures if isinstance(failure, RaymillError)), error)


def _check_start(job: TrainJob) -> None:
    """Refuse, before any worker starts, weights that the spec's network has no place for."""
    try:
        _Worker(job, rank=0, world_size=1, device="cpu")
    except (KeyError, RuntimeError) as error:
        raise Conflict(
            f"the network of the spec is not that of the version this run continues from: {error}; keep "
            "flavors.torch as it was, or train anew with read order full"
        ) from error


def _restore(job: TrainJob, directory: Path) -> Outcome:
    worker = _Worker(job, rank=0, world_size=1, device="cpu")
    worker.load(directory)
    return Outcome(worker.learner, worker.rows_seen, worker.history, worker.visits_G())


def _work(config: dict[str, Any]) -> None:
    """Run on every Ray Train worker."""
    import ray.train
    import ray.train.torch
    import ray.train.v2._internal.execution.context
    from torch.nn.parallel import DistributedDataParallel

    _quiet(ray.train.v2._internal.execution.context.__file__)
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    worker = _Worker(config["job"], context.get_world_rank(), context.get_world_size(), str(device))
    if worker.world_size > 1:
        ids = [device] if device.type == "cuda" else None
        worker.learner.forward = DistributedDataParallel(worker.learner.network, device_ids=ids)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as directory:
            worker.load(Path(directory))
        if worker.rank == 0:
            print(
                f"resumed at epoch {worker.epoch}, step {worker.step}: {worker.rows_seen:,} rows seen before"
            )
    worker.run()


def _quiet(logger: str) -> None:
    """Silence a line a report and rank; Ray names this logger by its file, outside `LoggingConfig`."""
    logging.getLogger(logger).setLevel(logging.WARNING)


class _Worker:
    """One rank's training state; all of it but the data position is equal on every rank."""

    def __init__(self, job: TrainJob, rank: int, world_size: int, device: str) -> None:
        from raymill.flavors.torch_learner import TorchLearner

        self.job, self.rank, self.world_size = job, rank, world_size
        self.config: TorchConfig = job.spec.flavor_config()
        self.learner = TorchLearner(job.encoder, self.config, seed=job.spec.seed, device=device)
        self.loader = Loader(
            job.snapshots["train"], job.encoder, job.spec.loader_config(), rank=rank, world_size=world_size
        )
        if job.start is not None:  # copies, for what comes through Ray cannot be written to
            self.learner.load_weights({name: np.array(value) for name, value in job.start.items()})
        self.epoch = self.step = self.rows_seen = 0
        self.loss_sum = 0.0
        self.history: list[dict[str, float]] = []

    def run(self) -> None:
        while self.epoch < self.config.epochs:
            self._epoch()

    def _epoch(self) -> None:
        started = time.monotonic()
        total, steps = self.loader.rows(self.epoch), self.loader.steps(self.epoch)
        label = f"epoch {self.epoch + 1}/{self.config.epochs}"
        progress = Progress(label, total) if self.rank == 0 else None
        every = self.job.spec.checkpoint.every_steps
        for batch in self.loader.epoch(self.epoch, from_step=self.step):
            loss = self._step(batch)
            self.step = batch.step + 1
            self.rows_seen += batch.global_rows
            if progress:
                progress.advance(batch.global_rows, loss=loss)
            if every and self.step % every == 0 and self.step < steps:
                self._save({"step": float(self.step)})
        entry = {"epoch": float(self.epoch + 1), "rows": float(total), "loss": self._mean_loss(total)}
        entry |= self._validate() | {"seconds": time.monotonic() - started}
        if progress:
            progress.finish(**{k: v for k, v in entry.items() if k not in ("epoch", "rows", "seconds")})
        self.history.append(entry)
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0
        self._save(entry)

    def _step(self, batch: Batch) -> float:
        """Take one optimiser step and return this rank's mean loss."""
        import torch

        learner = self.learner
        if self.config.dropout:  # seeded by position, so that a resumed run drops what it would have dropped
            key = np.random.SeedSequence([self.job.spec.seed, self.epoch, batch.step, self.rank])
            torch.manual_seed(int(key.generate_state(1, np.uint64)[0] >> 1))
        learner.optimizer.zero_grad(set_to_none=True)
        loss = learner.loss_sum(batch.features, batch.labels_N, self._weights_N(batch))
        torch.autograd.backward(loss * (self.world_size / batch.global_rows))
        learner.optimizer.step()
        value = float(loss.detach())
        self.loss_sum += value
        return value / max(len(batch), 1)

    def _weights_N(self, batch: Batch) -> np.ndarray | None:
        """Return what each row counts where the order drew rows unequally: its weight, one on average."""
        if batch.weights_N is None:
            return None
        return batch.weights_N * np.float32(self.loader.weight_scale(self.epoch))

    def _mean_loss(self, rows: int) -> float:
        """Return the epoch's mean loss over the rows of all ranks."""
        return float(sum(self._gather(self.loss_sum))) / rows

    def _validate(self) -> dict[str, float]:
        """Return the metrics over the whole validation set, equal on all ranks."""
        config = LoaderConfig(
            batch_rows=EVALUATION_ROWS // self.world_size * self.world_size,
            lanes=self.world_size, window=1, shuffle=False,
        )  # fmt: skip
        loader = Loader(
            self.job.snapshots["validation"], self.job.encoder, config,
            rank=self.rank, world_size=self.world_size,
        )  # fmt: skip
        batches = list(loader.epoch(0))
        mine = (
            np.concatenate([self.learner.predict(batch.features) for batch in batches]),
            np.concatenate([batch.labels_N for batch in batches]),
        )
        parts = self._gather(mine)
        found = evaluate(
            self.job.encoder.task,
            np.concatenate([scores for scores, _ in parts]),
            np.concatenate([labels for _, labels in parts]),
        )
        return {f"validation_{name}": value for name, value in found.items()}

    def _gather(self, mine: Any) -> list[Any]:
        if self.world_size == 1:
            return [mine]
        import torch.distributed as dist

        parts: list[Any] = [None] * self.world_size
        dist.all_gather_object(parts, mine)
        return parts

    def _save(self, metrics: dict[str, float]) -> None:
        """Report to Ray Train; rank 0 brings the checkpoint, uploaded while training goes on."""
        import ray.train
        from ray.train import Checkpoint, CheckpointUploadMode

        losses = self._gather(self.loss_sum)
        if self.rank != 0:
            ray.train.report(metrics, checkpoint_upload_mode=CheckpointUploadMode.ASYNC)
            return
        directory = Path(tempfile.mkdtemp(prefix="raymill-checkpoint-"))
        self.dump(directory, losses)
        ray.train.report(
            metrics,
            checkpoint=Checkpoint.from_directory(str(directory)),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        )

    def dump(self, directory: Path, losses: list[float]) -> None:
        """Write a checkpoint: arrays for torch, and a state of a few numbers as JSON."""
        import torch

        learner = self.learner
        torch.save(
            {"network": learner.network.state_dict(), "optimizer": learner.optimizer.state_dict()},
            directory / "weights.pt",
        )
        state = {
            "loader": asdict(self.loader.state(self.epoch, self.step)),
            "rows_seen": self.rows_seen,
            "loss_sum": sum(losses),
            "history": self.history,
        }
        (directory / "state.json").write_text(json.dumps(state), encoding="utf-8")
        ledger = self.job.ledger.record(self.loader.snapshot, self.visits_G())
        (directory / LEDGER_FILE).write_text(json.dumps(ledger.to_json()), encoding="utf-8")

    def visits_G(self) -> np.ndarray:
        """Return int64: rows of each row group that all ranks have learned from so far."""
        whole = [self.loader.visits(epoch, self.loader.steps(epoch)) for epoch in range(self.epoch)]
        open_one = [self.loader.visits(self.epoch, self.step)] if self.step else []
        none = np.zeros(self.loader.snapshot.groups, np.int64)
        return np.asarray(np.sum([none, *whole, *open_one], axis=0))

    def load(self, directory: Path) -> None:
        """Take over a checkpoint. Raises Conflict where it is of other data or loader settings."""
        import torch

        state = json.loads((directory / "state.json").read_text(encoding="utf-8"))
        position = LoaderState(**state["loader"])
        self.loader.check(position)
        weights = torch.load(directory / "weights.pt", map_location=self.learner.device, weights_only=True)
        self.learner.network.load_state_dict(weights["network"])
        self.learner.optimizer.load_state_dict(weights["optimizer"])
        self.epoch, self.step = position.epoch, position.step
        self.rows_seen, self.history = state["rows_seen"], state["history"]
        self.loss_sum = state["loss_sum"] if self.rank == 0 else 0.0
