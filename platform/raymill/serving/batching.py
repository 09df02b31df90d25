"""Dynamic batching: requests that are there at the same time go through the model together.

Adaptive in four ways. A lone request never waits for others. Before a call the loop hears what else has
come, for about a tenth of what the call will take. What arrives while the model is busy is the next batch,
so batches grow with the load by themselves. And a model that answers within `INLINE_S` is called on the
event loop, where a hop to a thread and back would cost more than the call; a slower one in a thread of its
own, so that the loop goes on refusing, timing out and answering for other models meanwhile.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from raymill.errors import DeadlineExceeded, Exhausted
from raymill.features import Features
from raymill.serving.spec import BatchingSpec
from raymill.serving.statistics import ModelStatistics

INLINE_S = 0.002
TURN_S = 50e-6  # one more turn of the loop, of some 5 us, for so much of a call's time
MAX_TURNS = 8
MIN_RETRY_S = 0.05

Predict = Callable[[Features], np.ndarray]


@dataclass(slots=True, eq=False)
class _Waiting:
    features: Features
    rows: int
    future: asyncio.Future[np.ndarray]
    input_ns: int
    since_ns: int


class Batcher:
    """One model's queue; used from one event loop.

    Args:
        predict: Called with one batch at a time, never twice at once.
        max_queued: Requests, waiting or in work, beyond which `predict` refuses.
    """

    def __init__(
        self, predict: Predict, spec: BatchingSpec, max_queued: int, statistics: ModelStatistics
    ) -> None:
        self._predict, self._spec, self._max_queued = predict, spec, max_queued
        self._statistics = statistics
        self._waiting: deque[_Waiting] = deque()
        self._rows = self._live = 0
        self._alone = self._alone_rows = 0  # of those that wait, the ones larger than a batch
        self._under_way = 0
        self._next: asyncio.Handle | None = None
        self._busy = self._crowded = False
        self._seconds: dict[int, float] = {}  # what a call took lately, by the bits of its number of rows
        self._pool: ThreadPoolExecutor | None = None

    async def predict(
        self, features: Features, timeout_s: float | None = None, input_ns: int = 0
    ) -> np.ndarray:
        """Return the scores of `features`, a view of a batch's.

        Raises:
            Exhausted: the queue is full.
            DeadlineExceeded: not predicted within `timeout_s`; what is not yet begun never is.
        """
        if self._live >= self._max_queued:
            wait_s = self._drain_s()
            raise Exhausted(
                f"{self._live} requests of this model wait, as many as may; try again in {wait_s:.2g} s",
                wait_s,
            )
        if timeout_s is not None and timeout_s <= 0:
            raise DeadlineExceeded("the request's time is over")
        loop = asyncio.get_running_loop()
        rows = len(features)
        waiting = _Waiting(features, rows, loop.create_future(), input_ns, time.perf_counter_ns())
        self._waiting.append(waiting)
        self._count(rows, 1)
        self._live += 1
        timer = loop.call_later(timeout_s, _expire, waiting, timeout_s) if timeout_s is not None else None
        self._schedule(loop)
        try:
            return await waiting.future
        finally:
            self._live -= 1
            if timer is not None:
                timer.cancel()

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._busy or not self._waiting:
            return
        full = self._rows >= self._spec.max_rows
        if self._next is not None:
            if not full or not isinstance(self._next, asyncio.TimerHandle):
                return
            self._next.cancel()
        if self._crowded and self._spec.max_wait_ms and not full:
            self._next = loop.call_later(self._spec.max_wait_ms / 1000, self._start, loop)
        else:
            self._next = loop.call_soon(self._gather, loop, 0, 0)

    def _gather(self, loop: asyncio.AbstractEventLoop, before: int, quiet: int) -> None:
        """Start when some turns of the loop brought nothing: other requests were read and not yet heard.

        Over gRPC each is heard in a turn of its own, and models would be called row by row.
        """
        now = len(self._waiting)
        quiet = 0 if now > before else quiet + 1
        likely_s = self._likely_s(self._rows, 0.0)
        if self._rows < self._spec.max_rows and quiet < min(likely_s / TURN_S, MAX_TURNS):
            self._next = loop.call_soon(self._gather, loop, now, quiet)
        else:
            self._start(loop)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._next = None
        batch = self._take()
        if not batch:
            return
        self._crowded, self._under_way = len(batch) > 1, sum(waiting.rows for waiting in batch)
        features = Features.concatenate([waiting.features for waiting in batch])
        if self._seconds.get(len(features).bit_length(), math.inf) <= INLINE_S:
            self._finish(loop, batch, *self._call(features))
            return
        self._busy = True
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="predict")
        running = loop.run_in_executor(self._pool, self._call, features)

        def done(_: object) -> None:
            self._busy = False
            self._finish(loop, batch, *running.result())

        running.add_done_callback(done)

    def _take(self) -> list[_Waiting]:
        """Return the first requests that make a batch, without those whose callers are gone."""
        batch: list[_Waiting] = []
        rows = 0
        while self._waiting:
            first = self._waiting[0]
            if batch and rows + first.rows > self._spec.max_rows:
                break
            self._waiting.popleft()
            self._count(first.rows, -1)
            if not first.future.done():
                batch.append(first)
                rows += first.rows
        return batch

    def _call(self, features: Features) -> tuple[np.ndarray | Exception, int, int]:
        started = time.perf_counter_ns()
        try:
            result: np.ndarray | Exception = self._predict(features)
        except Exception as error:
            result = error
        return result, started, time.perf_counter_ns()

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Waiting],
        result: np.ndarray | Exception,
        started: int,
        ended: int,
    ) -> None:
        seconds, rows = (ended - started) * 1e-9, 0
        answered = input_ns = queue_ns = 0
        for waiting in batch:
            first, rows = rows, rows + waiting.rows
            if waiting.future.done():  # its caller has gone meanwhile
                pass
            elif isinstance(result, Exception):
                waiting.future.set_exception(result)
            else:
                waiting.future.set_result(result[first:rows])
                answered += 1
                input_ns += waiting.input_ns
                queue_ns += started - waiting.since_ns
        size = rows.bit_length()
        self._seconds[size] = 0.7 * self._seconds.get(size, seconds) + 0.3 * seconds
        if not isinstance(result, Exception):
            self._statistics.executed(rows)
            self._statistics.answered(answered, input_ns, queue_ns, answered * (ended - started))
        self._schedule(loop)

    def _drain_s(self) -> float:
        """Return about how long the queue needs to empty: a larger request than a batch is one call."""
        alone, batches = self._alone, math.ceil((self._rows - self._alone_rows) / self._spec.max_rows)
        wait_s = self._likely_s(self._under_way) + batches * self._likely_s(self._spec.max_rows)
        if alone:
            wait_s += alone * self._likely_s(self._alone_rows // alone)
        return max(MIN_RETRY_S, wait_s)

    def _likely_s(self, rows: int, default: float = MIN_RETRY_S) -> float:
        size = rows.bit_length()
        return max((took for of, took in self._seconds.items() if of <= size), default=default)

    def _count(self, rows: int, one: int) -> None:
        """Count a request that comes to wait, or, with `one` -1, that waits no more."""
        self._rows += one * rows
        if rows > self._spec.max_rows:
            self._alone += one
            self._alone_rows += one * rows


def _expire(waiting: _Waiting, timeout_s: float) -> None:
    if not waiting.future.done():
        waiting.future.set_exception(DeadlineExceeded(f"no answer within the request's {timeout_s:g} s"))
