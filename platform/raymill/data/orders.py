"""Read orders: pure functions from (snapshot, seed, epoch) to what an epoch reads, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from raymill.data.snapshot import Snapshot
from raymill.registry import Registry

# K = row groups that the epoch reads, in reading order


@dataclass(frozen=True)
class EpochPlan:
    """The row groups of one epoch in reading order; the epoch's rows are their rows laid end to end."""

    groups_K: np.ndarray
    """int64: indices into the snapshot's row groups."""
    rows_K: np.ndarray
    """int64: rows read of each."""

    @cached_property
    def starts_K(self) -> np.ndarray:
        """int64: position of each row group's first row in the epoch."""
        return np.cumsum(self.rows_K) - self.rows_K

    @cached_property
    def rows(self) -> int:
        return int(self.rows_K.sum())


class Order(Protocol):
    """One read order. Seeds arrive as arguments: equal arguments give equal plans, anywhere."""

    def plan(self, snapshot: Snapshot, *, seed: int, epoch: int) -> EpochPlan: ...


ORDERS: Registry[type[Order]] = Registry("read order", {"full": "raymill.data.full:FullOrder"})
