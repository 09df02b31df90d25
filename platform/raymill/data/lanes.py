"""Lanes: the fixed virtual workers among which an epoch is dealt, so that batches outlive a resize.

An epoch is one long sequence of rows. Lane l reads the l-th of `lanes` contiguous, equally long
parts of it, and step s of the epoch is the s-th batch of every lane. That global batch is the same
for any number of workers; workers only share its rows out:

- a worker count that divides the lanes gives every rank whole lanes;
- any other count cuts each global batch into equal runs of rows. A lane that two ranks share is
  then decoded by both, the price of keeping the batches equal.

All functions are pure arithmetic on rows; nothing here reads a file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# L = lanes


@dataclass(frozen=True)
class Share:
    """What one rank takes of one lane's batch: rows [start, stop) of it."""

    lane: int
    start: int
    stop: int


@dataclass(frozen=True)
class Deal:
    """How an epoch of `rows` is dealt to `lanes` in global batches of at most `batch_rows`."""

    rows: int
    lanes: int
    batch_rows: int
    """A multiple of `lanes`; each lane gives batch_rows / lanes of it."""

    @property
    def lane_batch_rows(self) -> int:
        return self.batch_rows // self.lanes

    def bounds(self, lane: int) -> tuple[int, int]:
        """Return the lane's part of the epoch as positions [start, stop); lengths differ by one at most."""
        return self.rows * lane // self.lanes, self.rows * (lane + 1) // self.lanes

    @property
    def steps(self) -> int:
        """Return the steps of the epoch, equal on every rank."""
        longest = -(-self.rows // self.lanes)
        return -(-longest // self.lane_batch_rows)

    def lane_rows(self, step: int) -> np.ndarray:
        """Return int64 [L]: rows each lane gives at `step`; full except at the end of the epoch."""
        if (step + 1) * self.lane_batch_rows <= self.rows // self.lanes:
            return np.full(self.lanes, self.lane_batch_rows, np.int64)
        edges = self.rows * np.arange(self.lanes + 1, dtype=np.int64) // self.lanes
        rows_L: np.ndarray = np.clip(np.diff(edges) - step * self.lane_batch_rows, 0, self.lane_batch_rows)
        return rows_L

    def shares(self, step: int, rank: int, world_size: int) -> list[Share]:
        """Return what `rank` takes at `step`, in lane order; [] where the tail leaves it nothing."""
        rows_L = self.lane_rows(step)
        if self.lanes % world_size == 0:
            each = self.lanes // world_size
            mine = range(rank * each, (rank + 1) * each)
            return [Share(lane, 0, int(rows_L[lane])) for lane in mine if rows_L[lane]]
        total = int(rows_L.sum())
        start, stop = total * rank // world_size, total * (rank + 1) // world_size
        shares, before = [], 0
        for lane, rows in enumerate(rows_L.tolist()):
            low, high = max(start - before, 0), min(stop - before, rows)
            if low < high:
                shares.append(Share(lane, low, high))
            before += rows
        return shares
