"""Read orders: pure functions from (snapshot, seed, epoch) to what an epoch reads, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from raymill.data.snapshot import Snapshot
from raymill.registry import Registry

# K = row groups that the epoch reads, in reading order; N = rows

Pick = Callable[[int], np.ndarray]
"""From a row group's number to the rising numbers of those of its rows that the epoch reads."""


@dataclass(frozen=True)
class EpochPlan:
    """The row groups of one epoch in reading order; the epoch's rows are their rows laid end to end."""

    groups_K: np.ndarray
    """int64: indices into the snapshot's row groups, each at most once, each with rows to read."""
    rows_K: np.ndarray
    """int64: rows read of each; at least 1."""
    pick: Pick | None = None
    """Which rows of a row group are read; None reads all."""
    weights_K: np.ndarray | None = None
    """float32: dataset rows that each read row stands for; None where all stand for equally many."""

    @cached_property
    def starts_K(self) -> np.ndarray:
        """int64: position of each row group's first row in the epoch."""
        starts_K: np.ndarray = np.cumsum(self.rows_K) - self.rows_K
        return starts_K

    @cached_property
    def rows(self) -> int:
        return int(self.rows_K.sum())


class Order(Protocol):
    """One read order: a spec whose fields are its options.

    Seeds arrive as arguments: equal arguments give equal plans, anywhere.
    """

    def plan(self, snapshot: Snapshot, *, seed: int, epoch: int) -> EpochPlan: ...


ORDERS: Registry[type[Order]] = Registry(
    "read order",
    {
        "full": "raymill.data.full:FullOrder",
        "incremental": "raymill.data.incremental:IncrementalOrder",
        "sampled": "raymill.data.sampled:SampledOrder",
    },
)
