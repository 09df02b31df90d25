"""What ranks tell each other while they train, about once a second: how it goes, and who must leave.

Ranks step together, so they agree on when to speak by counting steps: after each beat the number of
steps to the next follows from the slowest rank's pace, which every rank has just heard.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

BEAT_S = 1.0
GROWTH = 10  # a beat after one slow first step says little of the pace


@dataclass(frozen=True)
class Beat:
    """What all ranks did since the last beat, equal on every rank."""

    rows: int
    """Rows of the global batches."""
    loss: float
    """Mean loss of those rows."""
    seconds: float
    leaving: bool
    """Whether some rank has been told to end."""
    wait_s: float
    """Mean seconds that a step waited for its batch, on the rank that waited longest."""


class Pulse:
    """Counts steps, and gathers every so many."""

    def __init__(
        self, gather: Callable[[Any], list[Any]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._gather, self._clock = gather, clock
        self._interval, self._steps, self._loss, self._waited_s = 1, 0, 0.0, 0.0
        self._last = clock()
        self.rows = 0
        """Rows since the last beat."""

    def step(
        self, global_rows: int, loss_sum: float, waited_s: float, must_leave: Callable[[], bool]
    ) -> Beat | None:
        """Count one step; return a beat where it is due, on all ranks at the same step.

        Args:
            loss_sum: Summed loss of this rank's rows.
            waited_s: Seconds for which this rank had no batch to go on with.
            must_leave: Asked at a beat only, as often on every rank.
        """
        self._steps += 1
        self.rows += global_rows
        self._loss += loss_sum
        self._waited_s += waited_s
        if self._steps < self._interval:
            return None
        return self.beat(must_leave)

    def beat(self, must_leave: Callable[[], bool]) -> Beat:
        """Gather now; to be called by all ranks, such as at the end of an epoch."""
        now = self._clock()
        told = self._gather((self._loss, now - self._last, must_leave(), self._waited_s))
        seconds = max(took for _, took, *_ in told)
        beat = Beat(
            rows=self.rows, loss=sum(loss for loss, *_ in told) / max(self.rows, 1), seconds=seconds,
            leaving=any(leaving for _, _, leaving, _ in told),
            wait_s=max(waited for *_, waited in told) / max(self._steps, 1),
        )  # fmt: skip
        pace = int(self._steps * BEAT_S / max(seconds, 1e-6))
        self._interval = max(min(pace, self._steps * GROWTH), 1)
        self._steps, self.rows, self._loss, self._waited_s, self._last = 0, 0, 0.0, 0.0, now
        return beat
