"""One worker's training: epochs of steps, exact validation, checkpoints. No framework and no Ray in it.

The gradient of a step is that of the mean loss over the whole global batch, also where ranks hold
unequal parts of it: collectives average over ranks, so each rank's summed loss is scaled by
ranks / global rows. Rows seen and batches therefore do not depend on who computes them.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from raymill.data import Batch, Loader, LoaderConfig, LoaderState
from raymill.evaluation import evaluate
from raymill.features import Features
from raymill.flavors.options import Best, GradientOptions
from raymill.progress import Progress
from raymill.repo.manifest import LEDGER_FILE
from raymill.runs import Point
from raymill.scratch import scratch
from raymill.train.base import Outcome, TrainJob
from raymill.train.divergence import diverged
from raymill.train.pulse import Beat, Pulse

EVALUATION_ROWS = 65_536  # rows of a global validation batch; no effect on the metrics
STATE_FILE = "state.json"
BEST = "best"  # directory of a checkpoint with what early stopping keeps

Write = Callable[[Path], None]
"""Writes a checkpoint's files into a directory; may run later, in another thread."""


class StepLearner(Protocol):
    """What the loop needs of a model whose ranks meet in the framework's own collectives."""

    def step(
        self,
        features: Features,
        labels_N: np.ndarray,
        weights_N: np.ndarray | None,
        *,
        scale: float,
        key: tuple[int, ...],
    ) -> float:
        """Take one optimiser step together with all ranks; return the summed loss of these rows.

        Args:
            scale: Multiplies the summed loss before it is differentiated.
            key: Seeds what is random in the step, such as dropout.
        """
        ...

    def plan(self, steps: int) -> None:
        """Hear, before the first step, how many there will be in all."""
        ...

    def is_finite(self) -> bool:
        """Return whether every weight is a finite number."""
        ...

    def predict(self, features: Features) -> np.ndarray: ...

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None: ...

    def freeze(self) -> Write:
        """Return a writer of weights and optimiser as they are now, whatever is learned meanwhile."""
        ...

    def restore(self, directory: Path) -> None:
        """Take over what `freeze` wrote."""
        ...


class Group(Protocol):
    """The ranks that train one model."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    exchange: Callable[[Any], list[Any]] | None
    """What `gather` uses where the framework brings its own."""

    def gather(self, mine: Any) -> list[Any]:
        """Return what each rank brought, in rank order, on every rank."""
        ...

    def save(self, metrics: dict[str, float], write: Write, *, wait: bool) -> None:
        """Store a checkpoint, whole or not at all; rank 0's `write` makes it. `wait`: until it is stored."""
        ...

    def tell(self, point: Point, new_rows: int) -> None:
        """Publish how training stands, and how many rows are new since the last time; on rank 0."""
        ...

    def tell_epoch(self, rows: int, entry: Mapping[str, float]) -> None:
        """Publish an epoch's closing entry; on rank 0."""
        ...

    def must_leave(self) -> bool:
        """Return whether this rank has been told that it will be ended soon."""
        ...

    def leave(self) -> None:
        """Called once a checkpoint is stored on every rank after one was told to leave."""
        ...


class Alone:
    """A group of one that stores nothing: what is restored and measured outside of a cluster."""

    rank, size = 0, 1
    exchange: Callable[[Any], list[Any]] | None = None

    def gather(self, mine: Any) -> list[Any]:
        return [mine]

    def save(self, metrics: dict[str, float], write: Write, *, wait: bool) -> None: ...

    def tell(self, point: Point, new_rows: int) -> None: ...

    def tell_epoch(self, rows: int, entry: Mapping[str, float]) -> None: ...

    def must_leave(self) -> bool:
        return False

    def leave(self) -> None: ...


class TrainingLoop:
    """One rank's training state; all of it but the data position is equal on every rank."""

    def __init__(self, job: TrainJob, learner: StepLearner, group: Group) -> None:
        self.job, self.learner, self.group = job, learner, group
        options: GradientOptions = job.spec.flavor_config()
        self.epochs = options.epochs
        self.loader = Loader(
            job.snapshots["train"], job.encoder, job.spec.loader_config(),
            rank=group.rank, world_size=group.size,
        )  # fmt: skip
        if job.start is not None:  # copies, for what comes through Ray cannot be written to
            learner.load_weights({name: np.array(value) for name, value in job.start.items()})
        self.epoch = self.step = self.rows_seen = 0
        self.loss_sum = 0.0
        self._started = time.monotonic()
        self.history: list[dict[str, float]] = []
        learner.plan(sum(self.loader.steps(epoch) for epoch in range(self.epochs)))
        self._saved = "none"
        self._best = Best(options.early_stopping, job.encoder.task) if options.early_stopping else None
        self._write_best: Write | None = None
        self._whole_G = np.zeros(self.loader.snapshot.groups, np.int64)

    def run(self) -> None:
        while self.epoch < self.epochs and not (self._best and self._best.is_over):
            self._epoch()

    def outcome(self) -> Outcome:
        """Return what was learned, with the best weights where early stopping kept them."""
        if self._write_best:
            with scratch("best") as folder:
                self._write_best(folder)
                self.learner.restore(folder)
        return Outcome(self.learner, self.rows_seen, self.history, self.visits_G())

    def _epoch(self) -> None:
        started = time.monotonic()
        total, steps = self.loader.rows(self.epoch), self.loader.steps(self.epoch)
        progress = self._progress(total)
        every = self.job.spec.checkpoint.every_steps
        pulse = Pulse(self.group.gather)
        watch = functools.partial(self._watch, progress)
        then = self.epoch + 1 if self.epoch + 1 < self.epochs else None
        for batch, waited_s in self._batches(then):
            loss_sum = self._step(batch)
            self.step = batch.step + 1
            self.rows_seen += batch.global_rows
            leaving = watch(pulse.step(batch.global_rows, loss_sum, waited_s, self.group.must_leave))
            if leaving or (every and self.step % every == 0 and self.step < steps):
                self._save({"step": float(self.step)}, wait=leaving)
            if leaving:
                self.group.leave()
        leaving = watch(pulse.beat(self.group.must_leave))
        entry = {"epoch": float(self.epoch + 1), "rows": float(total), "loss": self._mean_loss(total)}
        entry |= self._validate() | {"seconds": time.monotonic() - started}
        if progress:
            progress.finish(**{k: v for k, v in entry.items() if k not in ("epoch", "rows", "seconds")})
            self.group.tell_epoch(self.rows_seen, entry)
        if self._best and self._best.take(entry):
            self._write_best = self.learner.freeze()
        self.history.append(entry)
        self._whole_G += self.loader.visits(self.epoch, steps)
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0
        self._save(entry, wait=leaving)
        if leaving:
            self.group.leave()

    def _batches(self, then: int | None) -> Iterator[tuple[Batch, float]]:
        """Yield the rest of the epoch's batches, each with the seconds it was waited for."""
        batches = self.loader.epoch(self.epoch, from_step=self.step, then=then)
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            yield batch, time.perf_counter() - started

    def _watch(self, progress: Progress | None, beat: Beat | None) -> bool:
        """Tell how it goes, from rank 0 at a beat; return whether a rank must leave."""
        if beat is None:
            return False
        if progress and beat.rows:  # none where the epoch's last step was itself a beat
            progress.advance(beat.rows, loss=beat.loss)
            point = Point(
                rows=self.rows_seen, seconds=time.monotonic() - self._started, epoch=self.epoch + 1,
                step=self.step, loss=beat.loss, rows_per_second=beat.rows / max(beat.seconds, 1e-9),
                workers=self.group.size, wait_ms=1000 * beat.wait_s,
            )  # fmt: skip
            self.group.tell(point, beat.rows)
        return beat.leaving

    def _progress(self, total: int) -> Progress | None:
        done = min(self.step * self.loader.config.batch_rows, total)
        label = f"epoch {self.epoch + 1}/{self.epochs}"
        return Progress(label, total, done=done) if self.group.rank == 0 and not self.job.trial else None

    def _step(self, batch: Batch) -> float:
        """Take one optimiser step and return this rank's summed loss."""
        key = (self.job.spec.seed, self.epoch, batch.step, self.group.rank)
        scale = self.group.size / batch.global_rows
        value = self.learner.step(
            batch.features, batch.labels_N, self._weights_N(batch), scale=scale, key=key
        )
        if not math.isfinite(value):
            raise diverged(f"the loss is {value}", self.loader, self.epoch, batch.step, self._saved)
        self.loss_sum += value
        return value

    def _weights_N(self, batch: Batch) -> np.ndarray | None:
        """Return what each row counts where the order drew rows unequally: its weight, one on average."""
        if batch.weights_N is None:
            return None
        return batch.weights_N * np.float32(self.loader.weight_scale(self.epoch))

    def _mean_loss(self, rows: int) -> float:
        """Return the epoch's mean loss over the rows of all ranks."""
        return float(sum(self.group.gather(self.loss_sum))) / rows

    def _validate(self) -> dict[str, float]:
        """Return the metrics over the whole validation set, equal on all ranks."""
        rank, size = self.group.rank, self.group.size
        config = LoaderConfig(batch_rows=EVALUATION_ROWS // size * size, lanes=size, window=1, shuffle=False)
        loader = Loader(
            self.job.snapshots["validation"], self.job.encoder, config, rank=rank, world_size=size
        )
        batches = list(loader.epoch(0))
        mine = (
            np.concatenate([self.learner.predict(batch.features) for batch in batches]),
            np.concatenate([batch.labels_N for batch in batches]),
        )
        parts = self.group.gather(mine)
        found = evaluate(
            self.job.encoder.task,
            np.concatenate([scores for scores, _ in parts]),
            np.concatenate([labels for _, labels in parts]),
        )
        return {f"validation_{name}": value for name, value in found.items()}

    def _save(self, metrics: dict[str, float], *, wait: bool = False) -> None:
        """Store a checkpoint while training goes on, or before it does if `wait`."""
        if not self.learner.is_finite():  # as on every rank: all have the same weights
            at = (
                (self.epoch, self.step - 1)
                if self.step
                else (self.epoch - 1, self.loader.steps(self.epoch - 1) - 1)
            )
            raise diverged("a weight is no finite number", self.loader, *at, self._saved)
        losses = self.group.gather(self.loss_sum)
        self.group.save(metrics, self.freeze(losses), wait=wait)
        self._saved = f"epoch {self.epoch + 1}, step {self.step}, of run {self.job.run}"

    def freeze(self, losses: list[float]) -> Write:
        """Return a writer of the state as it is now: the learner's files, a few numbers, the ledger."""
        if self.group.rank != 0:
            return _nothing
        write_learner = self.learner.freeze()
        state = {
            "loader": asdict(self.loader.state(self.epoch, self.step)),
            "rows_seen": self.rows_seen,
            "loss_sum": sum(losses),
            "history": list(self.history),
            "best": self._best and self._best.state(),
        }
        write_best = self._write_best
        visits_G, ledger = self.visits_G(), self.job.ledger

        def write(directory: Path) -> None:
            write_learner(directory)
            if write_best:
                (directory / BEST).mkdir()
                write_best(directory / BEST)
            (directory / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
            learned = ledger.record(self.loader.snapshot, visits_G)
            (directory / LEDGER_FILE).write_text(json.dumps(learned.to_json()), encoding="utf-8")

        return write

    def visits_G(self) -> np.ndarray:
        """Return int64: rows of each row group that all ranks have learned from so far."""
        open_G = self.loader.visits(self.epoch, self.step) if self.step else 0
        return self._whole_G + open_G

    def load(self, directory: Path) -> None:
        """Take over a checkpoint. Raises Conflict where it is of other data or loader settings."""
        state = json.loads((directory / STATE_FILE).read_text(encoding="utf-8"))
        position = LoaderState(**state["loader"])
        self.loader.check(position)
        if self._best and (directory / BEST).exists():
            self._best.load(state["best"])
            self.learner.restore(directory / BEST)
            self._write_best = self.learner.freeze()
        self.learner.restore(directory)
        self._saved = f"epoch {position.epoch + 1}, step {position.step}, of run {self.job.run}"
        self.epoch, self.step = position.epoch, position.step
        self.rows_seen, self.history = state["rows_seen"], state["history"]
        self.loss_sum = state["loss_sum"] if self.group.rank == 0 else 0.0
        for epoch in range(self.epoch):
            self._whole_G += self.loader.visits(epoch, self.loader.steps(epoch))


def _nothing(directory: Path) -> None: ...
