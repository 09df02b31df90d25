"""Progress of long work: a bar with pace, values and time left; in place on a terminal, else calm lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

INTERVAL_S = 2.0
REDRAW_S = 0.2  # on a terminal, where a new line replaces the old one
BAR = 20


class Progress:
    """Prints "what [#########...........]  45% 1,100/2,447 rows, 810 rows/s, loss 0.4821, 2 s left"."""

    def __init__(
        self,
        what: str,
        total: int,
        unit: str = "rows",
        *,
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], None] | None = None,
    ) -> None:
        """
        Args:
            done: Units done before this process began; they do not count for the pace.
            write: Takes whole lines; default standard output, where a terminal is redrawn in place.
        """
        self._what, self._total, self._unit = what, total, unit
        self._in_place = write is None and sys.stdout.isatty()
        self._clock, self._write = clock, write or self._print_out
        self._interval = REDRAW_S if self._in_place else INTERVAL_S
        self._before = self._done = done
        self._began = False
        self._started = self._last = clock()

    def advance(self, amount: int, **values: float) -> None:
        """Count `amount` more units done; prints if the last line is old enough."""
        self._done += amount
        now = self._clock()
        if now - self._last >= self._interval:
            self._last, self._began = now, True
            self._write(self.line(now, values))

    def finish(self, **values: float) -> None:
        """Print the last line."""
        self._write(self.line(self._clock(), values, done=True))
        if self._in_place:
            print(flush=True)

    def close(self) -> None:
        """Print the last line of work that took long enough to have printed one before."""
        if self._began:
            self.finish()

    def line(self, now: float, values: dict[str, float], *, done: bool = False) -> str:
        """Return the progress as one line."""
        rate = (self._done - self._before) / max(now - self._started, 1e-9)
        share = self._done / self._total if self._total else 1.0
        filled = int(BAR * min(share, 1.0))
        parts = [
            f"{self._what} [{'#' * filled}{'.' * (BAR - filled)}] {100 * share:3.0f}% "
            f"{self._done:,}/{self._total:,} {self._unit}",
            f"{rate:,.0f} {self._unit}/s",
            *(f"{name} {value:.4f}" for name, value in values.items()),
        ]
        if done:
            parts.append("done")
        elif rate > 0:
            parts.append(f"{(self._total - self._done) / rate:.0f} s left")
        return ", ".join(parts)

    def _print_out(self, line: str) -> None:
        print(f"\r\x1b[2K{line}" if self._in_place else line, end="" if self._in_place else "\n", flush=True)
