"""Progress lines for logs: a job's output is no terminal, so whole lines at a calm pace, no bars."""

from __future__ import annotations

import time
from collections.abc import Callable

INTERVAL_S = 2.0


class Progress:
    """Prints "what 45% (110,000/244,737 rows) 81,000 rows/s, loss 0.4821, 2 s left" now and then."""

    def __init__(
        self,
        what: str,
        total: int,
        unit: str = "rows",
        *,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], None] = lambda line: print(line, flush=True),
    ) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._clock, self._write = clock, write
        self._done = 0
        self._started = self._last = clock()

    def advance(self, amount: int, **values: float) -> None:
        """Count `amount` more units done; prints if the last line is old enough."""
        self._done += amount
        now = self._clock()
        if now - self._last >= INTERVAL_S:
            self._last = now
            self._print(now, values, ending="")

    def finish(self, **values: float) -> None:
        """Print the last line."""
        self._print(self._clock(), values, ending=", done")

    def _print(self, now: float, values: dict[str, float], ending: str) -> None:
        seconds = max(now - self._started, 1e-9)
        rate = self._done / seconds
        share = 100 * self._done / self._total if self._total else 100.0
        line = f"{self._what} {share:.0f}% ({self._done:,}/{self._total:,} {self._unit})"
        line += f" {rate:,.0f} {self._unit}/s"
        line += "".join(f", {name} {value:.4f}" for name, value in values.items())
        if not ending and rate > 0:
            line += f", {(self._total - self._done) / rate:.0f} s left"
        self._write(line + ending)
