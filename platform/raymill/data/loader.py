"""The loader: a rank's batches of an epoch, exactly once over all ranks, resumable at any step.

State is a few numbers. It says nothing of the number of workers, so that a run may go on with more
or fewer of them: the global batches stay the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from raymill.config import Spec
from raymill.data.decode import Decoder
from raymill.data.lanes import Deal, Share
from raymill.data.orders import ORDERS, EpochPlan
from raymill.data.snapshot import Snapshot
from raymill.data.stream import LaneStream, cut
from raymill.errors import Conflict, SpecError
from raymill.features import Encoder, Features


class LoaderConfig(Spec):
    """How an epoch is read. Everything here shapes the batches, and nothing else does."""

    order: str = "full"
    """Name in the table of read orders."""
    batch_rows: int = Field(default=1024, ge=1)
    """Rows of a global batch, over all workers; the last may be smaller."""
    lanes: int = Field(default=1, ge=1)
    """Virtual workers among which an epoch is dealt; must divide batch_rows."""
    window: int = Field(default=4, ge=1)
    """Row groups of one lane that are mixed together; memory is two windows a lane."""
    shuffle: bool = True
    """Mix rows inside windows; row groups are put in random order by the read order."""
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _lanes_divide_batch(self) -> LoaderConfig:
        if self.batch_rows % self.lanes:
            raise ValueError(
                f"batch_rows must be a multiple of lanes, got {self.batch_rows} and {self.lanes}; "
                f"try batch_rows={max(1, round(self.batch_rows / self.lanes)) * self.lanes}"
            )
        return self


@dataclass(frozen=True)
class LoaderState:
    """Where a run stands: the next batch is step `step` of epoch `epoch`."""

    snapshot: str
    config: dict[str, Any]
    epoch: int
    step: int


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch; may be empty at the end of an epoch."""

    features: Features
    labels_N: np.ndarray
    step: int
    global_rows: int
    """Rows of the whole batch over all ranks; weigh the loss by it, not by this rank's rows."""

    def __len__(self) -> int:
        return len(self.labels_N)


class Loader:
    """Batches of one rank. Needs no process group, no Ray: rank and world size are plain numbers."""

    def __init__(
        self,
        snapshot: Snapshot,
        encoder: Encoder,
        config: LoaderConfig,
        *,
        rank: int = 0,
        world_size: int = 1,
        threads: int = 2,
    ) -> None:
        if not 0 <= rank < world_size:
            raise SpecError(f"rank must lie in [0, world_size), got rank {rank} of {world_size}")
        self.snapshot, self.config = snapshot, config
        self._order = ORDERS.load(config.order)()
        self._decoder = Decoder(snapshot, encoder)
        self._rank, self._world_size, self._threads = rank, world_size, threads

    def steps(self, epoch: int) -> int:
        """Return the steps of `epoch`, equal on every rank."""
        return self._deal(self._plan(epoch).rows).steps

    def rows(self, epoch: int) -> int:
        """Return the rows of `epoch` over all ranks."""
        return self._plan(epoch).rows

    def state(self, epoch: int, step: int) -> LoaderState:
        return LoaderState(self.snapshot.id, self.config.model_dump(), epoch, step)

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

    def epoch(self, epoch: int, *, from_step: int = 0) -> Iterator[Batch]:
        """Yield this rank's batches of `epoch`, from step `from_step` on; every rank yields equally many.

        Raises:
            DataError: a file that changed or cannot be read; it is named.
        """
        plan = self._plan(epoch)
        deal = self._deal(plan.rows)
        streams: dict[int, LaneStream] = {}
        with ThreadPoolExecutor(self._threads, thread_name_prefix="loader") as pool:
            try:
                for step in range(from_step, deal.steps):
                    rows_L = deal.lane_rows(step)
                    parts: list[tuple[Features, np.ndarray]] = []
                    for share in deal.shares(step, self._rank, self._world_size):
                        if share.lane not in streams:
                            streams[share.lane] = self._stream(plan, deal, share, epoch, step, pool)
                        parts += streams[share.lane].take(int(rows_L[share.lane]), share.start, share.stop)
                    yield self._batch(parts, step, int(rows_L.sum()))
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _stream(
        self, plan: EpochPlan, deal: Deal, share: Share, epoch: int, step: int, pool: ThreadPoolExecutor
    ) -> LaneStream:
        low, high = deal.bounds(share.lane)
        return LaneStream(
            cut(plan, low, high),
            self._decoder,
            pool,
            window=self.config.window,
            shuffle_key=(self.config.seed, epoch, share.lane) if self.config.shuffle else None,
            position=step * deal.lane_batch_rows,
        )

    def _batch(self, parts: list[tuple[Features, np.ndarray]], step: int, global_rows: int) -> Batch:
        if not parts:
            features, labels_N = self._decoder.empty(0)
            return Batch(features, labels_N, step, global_rows)
        labels = [labels_N for _, labels_N in parts]
        return Batch(
            Features.concatenate([features for features, _ in parts]),
            labels[0] if len(labels) == 1 else np.concatenate(labels),
            step,
            global_rows,
        )

    def _plan(self, epoch: int) -> EpochPlan:
        return self._order.plan(self.snapshot, seed=self.config.seed, epoch=epoch)

    def _deal(self, rows: int) -> Deal:
        return Deal(rows, self.config.lanes, self.config.batch_rows)
