"""Where the worker that trains says how it goes: the run's history, TensorBoard, and what else listens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from raymill.runs.record import Point, Runs
from raymill.runs.tensorboard import EventFile

FLUSH_S = 5.0

Listener = Callable[[Point, int], None]
"""Takes a point and how many rows are new since the last."""


class RunLog:
    """Takes points and epochs of one run, and stores them every few seconds in a thread of its own."""

    def __init__(self, runs: Runs, run: str, *, listeners: Sequence[Listener] = ()) -> None:
        self._runs, self._run = runs, run
        self._history = runs.history(run)
        self._before_s = self._history.points[-1].seconds if self._history.points else 0.0
        self._events = EventFile(runs.root / run / "tensorboard")
        self._listeners = listeners
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._flush_now_and_then, name="run-log", daemon=True)
        self._thread.start()

    def point(self, point: Point, new_rows: int) -> None:
        """Add how training stands, its seconds counted from when this process began."""
        point = point.model_copy(update={"seconds": point.seconds + self._before_s})
        with self._lock:
            self._history.add(point)
            scalars = {"train/loss": point.loss, "train/rows_per_second": point.rows_per_second}
            scalars |= {"train/workers": float(point.workers), "train/wait_ms": point.wait_ms}
            self._events.add(point.rows, scalars)
        for listener in self._listeners:
            listener(point, new_rows)

    def epoch(self, rows: int, entry: Mapping[str, float]) -> None:
        """Add the closing entry of an epoch, or of a boosting round; `rows` were learned from by then."""
        with self._lock:
            self._history.end_epoch(entry)
            self._events.add(rows, {f"epoch/{name}": value for name, value in entry.items()})

    def close(self) -> None:
        """Store the rest and end the thread."""
        self._ended.set()
        self._thread.join()
        self._flush()

    def _flush_now_and_then(self) -> None:
        while not self._ended.wait(FLUSH_S):
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            frozen = self._history.model_copy(deep=True)
            self._events.flush()
        self._runs.write_history(self._run, frozen)
