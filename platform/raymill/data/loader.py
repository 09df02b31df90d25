"""The loader: a rank's batches of an epoch, exactly once over all ranks, resumable at any step.

State is a few numbers. It says nothing of the number of workers, so that a run may go on with more
or fewer of them: the global batches stay the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from raymill.data.decode import Decoder
from raymill.data.frameworks import TensorBatch, to_tensorflow, to_torch
from raymill.data.lanes import Deal
from raymill.data.loader_config import LoaderConfig, LoaderState
from raymill.data.orders import EpochPlan
from raymill.data.rows import Rows
from raymill.data.snapshot import Snapshot
from raymill.data.stream import Budget, LaneStream, Windows
from raymill.data.visits import visits_of
from raymill.errors import Conflict, SpecError
from raymill.features import Encoder, Features

__all__ = ["Batch", "Loader", "LoaderConfig", "LoaderState"]

FEWEST_THREADS, MOST_THREADS = 2, 8
PREFETCH_BYTES = 1 << 30
PLANS_KEPT = 2  # the epoch that is read and the next


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch; may be empty at the end of an epoch."""

    features: Features
    labels_N: np.ndarray
    step: int
    global_rows: int
    """Rows of the whole batch over all ranks; weigh the loss by it, not by this rank's rows."""
    weights_N: np.ndarray | None = None
    """float32: how many rows of the dataset each row stands for; None where all stand for equally many."""

    def __len__(self) -> int:
        return len(self.labels_N)

    def as_torch(self) -> TensorBatch:
        """Return torch tensors that share this batch's memory."""
        return to_torch(self)

    def as_tensorflow(self) -> TensorBatch:
        """Return TensorFlow tensors."""
        return to_tensorflow(self)


@dataclass(frozen=True)
class _Run:
    """An epoch that is being read: its threads, and its lanes as far as they were needed."""

    epoch: int
    deal: Deal
    pool: ThreadPoolExecutor
    budget: Budget
    streams: dict[int, LaneStream]

    @property
    def is_decoded(self) -> bool:
        """Whether nothing of this epoch is left to be begun."""
        return all(stream.is_decoded for stream in self.streams.values())


class Loader:
    """Batches of one rank. Needs no process group, no Ray: rank and world size are plain numbers.

    Memory, beyond one batch: for every lane the rank reads, the window in use and as many row
    groups again decoded ahead, the latter at most `prefetch_bytes` over all lanes; and for every
    thread the few megabytes of columns it is decoding.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        encoder: Encoder,
        config: LoaderConfig,
        *,
        rank: int = 0,
        world_size: int = 1,
        threads: int | None = None,
        prefetch_bytes: int = PREFETCH_BYTES,
    ) -> None:
        """
        Args:
            threads: That decode; default this process's cores shared among the ranks, from 2 to 8.
            prefetch_bytes: Decoded ahead of use at most, over all lanes.

        Raises:
            SpecError: a rank outside the world.
        """
        if not 0 <= rank < world_size:
            raise SpecError(f"rank must lie in [0, world_size), got rank {rank} of {world_size}")
        self.snapshot, self.config = snapshot, config
        self._order = config.make_order()
        self._decoder = Decoder(snapshot, encoder)
        self._rank, self._world_size = rank, world_size
        share = (os.cpu_count() or 1) // world_size
        self._threads = threads or min(max(share, FEWEST_THREADS), MOST_THREADS)
        self._prefetch_bytes = prefetch_bytes
        self._planned: dict[int, EpochPlan] = {}
        self._next: _Run | None = None

    def steps(self, epoch: int) -> int:
        """Return the steps of `epoch`, equal on every rank."""
        return self._deal(epoch).steps

    def rows(self, epoch: int) -> int:
        """Return the rows of `epoch` over all ranks."""
        return self._plan(epoch).rows

    def weight_scale(self, epoch: int) -> float:
        """Return the factor that makes the weights of `epoch` one on average; 1 where it has none."""
        plan = self._plan(epoch)
        return 1.0 if plan.weights_K is None else plan.rows / float(plan.weights_K @ plan.rows_K)

    def state(self, epoch: int, step: int, lane_steps: Sequence[int] | None = None) -> LoaderState:
        """Return the position before step `step` of `epoch`, or before each lane's own step."""
        return LoaderState(
            self.snapshot.id, self.config.model_dump(), epoch, step, tuple(lane_steps) if lane_steps else None
        )

    def check(self, state: LoaderState) -> None:
        """Refuse a state of other data or of another configuration.

        Raises:
            Conflict: names what differs.
        """
        mine = self.state(state.epoch, state.step)
        if state.snapshot != mine.snapshot:
            raise Conflict(
                f"the checkpoint was made on snapshot {state.snapshot}, the data is now {mine.snapshot}; "
                "files were added, removed or rewritten: start a new run, or restore them"
            )
        differing = [key for key in mine.config if state.config.get(key) != mine.config[key]]
        if differing:
            was = {key: state.config.get(key) for key in differing}
            now = {key: mine.config[key] for key in differing}
            raise Conflict(f"the checkpoint was made with other loader settings: {was}, now {now}")

    def epoch(self, epoch: int, *, from_step: int = 0, then: int | None = None) -> Iterator[Batch]:
        """Yield this rank's batches of `epoch`, from step `from_step` on; every rank yields equally many.

        Args:
            then: The epoch that will be asked for next, from its first step on: its first windows are
                decoded while this one ends, which short epochs would otherwise wait for.

        Raises:
            DataError: a file that changed or cannot be read; it is named.
        """
        run = self._begin(epoch, from_step)
        ended = False
        try:
            for step in range(from_step, run.deal.steps):
                if then is not None and self._next is None and run.is_decoded:
                    self._next = self._open(then, 0, run.pool, run.budget)
                yield self._take(run, step)
            ended = True
        finally:
            if self._next is None or not ended:
                self._next = None
                run.pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self, epoch: int, from_step: int) -> _Run:
        """Return the run that was begun ahead for this epoch, or begin one."""
        ahead, self._next = self._next, None
        if ahead is not None and (ahead.epoch, from_step) == (epoch, 0):
            return ahead
        if ahead is not None:
            ahead.pool.shutdown(wait=True, cancel_futures=True)
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="loader")
        return self._open(epoch, from_step, pool, Budget(self._prefetch_bytes))

    def _open(self, epoch: int, from_step: int, pool: ThreadPoolExecutor, budget: Budget) -> _Run:
        """Begin an epoch: all lanes of its first step start to decode, none waits for another."""
        run = _Run(epoch, self._deal(epoch), pool, budget, {})
        if from_step < run.deal.steps:
            for share in run.deal.shares(from_step, self._rank, self._world_size):
                self._lane_of(run, share.lane, from_step).prefetch()
        return run

    def _take(self, run: _Run, step: int) -> Batch:
        rows_L, parts = run.deal.lane_rows(step), []
        for share in run.deal.shares(step, self._rank, self._world_size):
            stream = self._lane_of(run, share.lane, step)
            parts += stream.take(int(rows_L[share.lane]), share.start, share.stop)
        return self._batch(parts, step, int(rows_L.sum()))

    def _lane_of(self, run: _Run, lane: int, step: int) -> LaneStream:
        if lane not in run.streams:
            run.streams[lane] = self._stream(run.epoch, lane, step, run.pool, run.budget)
        return run.streams[lane]

    def lane(self, epoch: int, lane: int, *, from_step: int = 0) -> Iterator[Batch]:
        """Yield one lane's batches of `epoch` from its step `from_step` on, whatever other lanes do.

        For strategies whose workers do not wait for each other: each pulls the lanes it was given,
        at its own pace, and its position is its lanes' steps. Rank and world size play no part.

        Raises:
            SpecError: no such lane.
            DataError: as for `epoch`.
        """
        if not 0 <= lane < self.config.lanes:
            raise SpecError(f"lane must lie in [0, lanes), got lane {lane} of {self.config.lanes}")
        deal, budget = self._deal(epoch), Budget(self._prefetch_bytes)
        with ThreadPoolExecutor(self._threads, thread_name_prefix="loader") as pool:
            try:
                stream = self._stream(epoch, lane, from_step, pool, budget)
                for step in range(from_step, deal.steps):
                    rows_L = deal.lane_rows(step)
                    rows = int(rows_L[lane])
                    if rows == 0:
                        return
                    yield self._batch(stream.take(rows, 0, rows), step, int(rows_L.sum()))
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def visits(self, epoch: int, step: int | Sequence[int]) -> np.ndarray:
        """Return int64 [G]: rows of each row group handed out, by all ranks, before `step` of `epoch`.

        Args:
            step: One step for all lanes, or one for each.
        """
        deal, plan = self._deal(epoch), self._plan(epoch)
        steps_L = [step] * deal.lanes if isinstance(step, int) else list(step)
        found_G = np.zeros(self.snapshot.groups, np.int64)
        for lane, lane_step in enumerate(steps_L):
            low, high = deal.bounds(lane)
            rows = min(lane_step * deal.lane_batch_rows, high - low)
            windows = Windows(plan, low, high, self.config.window)
            found_G += visits_of(windows, rows, self._key(epoch, lane), self.snapshot.groups)
        return found_G

    def _stream(
        self, epoch: int, lane: int, step: int, pool: ThreadPoolExecutor, budget: Budget
    ) -> LaneStream:
        deal, window = self._deal(epoch), self.config.window
        low, high = deal.bounds(lane)
        return LaneStream(
            Windows(self._plan(epoch), low, high, window),
            self._decoder,
            pool,
            budget,
            ahead=max(window, self._threads),
            shuffle_key=self._key(epoch, lane),
            position=step * deal.lane_batch_rows,
        )

    def _key(self, epoch: int, lane: int) -> tuple[int, ...] | None:
        return (self.config.seed, epoch, lane) if self.config.shuffle else None

    def _batch(self, parts: list[Rows], step: int, global_rows: int) -> Batch:
        rows = Rows.concatenate(parts) if parts else self._decoder.empty_rows(0)
        return Batch(rows.features, rows.labels_N, step, global_rows, rows.weights_N)

    def _plan(self, epoch: int) -> EpochPlan:
        if epoch not in self._planned:
            plan = self._order.plan(self.snapshot, seed=self.config.seed, epoch=epoch)
            self._planned = {**dict([*self._planned.items()][1 - PLANS_KEPT :]), epoch: plan}
        return self._planned[epoch]

    def _deal(self, epoch: int) -> Deal:
        return Deal(self._plan(epoch).rows, self.config.lanes, self.config.batch_rows)
