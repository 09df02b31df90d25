"""Batching: who shares a call, who waits, who is refused, and what slow models must not hold up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from raymill.errors import DeadlineExceeded, Exhausted
from raymill.features import Features
from raymill.serving import batching
from raymill.serving.batching import Batcher
from raymill.serving.spec import BatchingSpec
from raymill.serving.statistics import ModelStatistics


def rows(*values: float) -> Features:
    return Features(np.array(values, np.float32)[:, None], np.empty((len(values), 0), np.int32))


class Model:
    """Doubles its input, and notes the rows of each call."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.calls: list[int] = []
        self.seconds = seconds

    def __call__(self, features: Features) -> np.ndarray:
        self.calls.append(len(features))
        time.sleep(self.seconds)
        if np.isnan(features.numeric_NF).any():
            raise RuntimeError("the model broke")
        return features.numeric_NF[:, 0] * 2


def batcher(model: Callable[[Features], np.ndarray], max_queued: int = 100, **spec: Any) -> Batcher:
    return Batcher(model, BatchingSpec(**spec), max_queued, ModelStatistics("toy", 1))


async def together(found: Batcher, *requests: Features, **more: Any) -> list[Any]:
    return await asyncio.gather(
        *(found.predict(request, **more) for request in requests), return_exceptions=True
    )


def test_requests_at_one_time_share_a_call_and_get_their_own_rows() -> None:
    model = Model()
    found = asyncio.run(together(batcher(model), rows(1), rows(2, 3), rows(4)))
    assert [scores.tolist() for scores in found] == [[2.0], [4.0, 6.0], [8.0]]
    assert model.calls == [4]


def test_batches_end_at_whole_requests_of_at_most_max_rows() -> None:
    model = Model()
    found = asyncio.run(
        together(batcher(model, max_rows=3), rows(1, 2), rows(3, 4), rows(5), rows(*range(7)))
    )
    assert [len(scores) for scores in found] == [2, 2, 1, 7]
    assert model.calls == [2, 3, 7]


def test_what_arrives_while_the_model_works_is_the_next_batch() -> None:
    model = Model(seconds=0.1)

    async def ask() -> None:
        found = batcher(model)
        first = asyncio.create_task(found.predict(rows(1)))
        await asyncio.sleep(0.02)
        await together(found, *(rows(i) for i in range(5)))
        await first

    asyncio.run(ask())
    assert model.calls == [1, 5]


def test_requests_heard_in_turns_of_their_own_share_a_call_of_a_model_that_takes_its_time() -> None:
    model = Model(seconds=0.001)

    async def ask() -> None:
        found = batcher(model)
        await found.predict(rows(0))  # tells how long a call takes
        asked = []
        for value in range(4):
            asked.append(asyncio.create_task(found.predict(rows(value))))
            for _ in range(3):
                await asyncio.sleep(0)
        assert [float(scores[0]) for scores in await asyncio.gather(*asked)] == [0.0, 2.0, 4.0, 6.0]

    asyncio.run(ask())
    assert model.calls == [1, 4]


def test_a_lone_request_does_not_wait_and_crowds_do() -> None:
    model = Model()

    async def ask() -> tuple[float, float]:
        found = batcher(model, max_wait_ms=200)
        started = time.perf_counter()
        await found.predict(rows(1))
        alone = time.perf_counter() - started
        await together(found, rows(1), rows(2))
        started = time.perf_counter()
        await found.predict(rows(3))
        return alone, time.perf_counter() - started

    alone, crowded = asyncio.run(ask())
    assert alone < 0.1
    assert 0.15 < crowded < 1


def test_a_full_batch_waits_no_longer() -> None:
    async def ask() -> float:
        found = batcher(Model(), max_wait_ms=900, max_rows=4)
        await together(found, rows(1), rows(2))
        started = time.perf_counter()
        await together(found, rows(1, 2), rows(3, 4))
        return time.perf_counter() - started

    assert asyncio.run(ask()) < 0.5


def test_beyond_the_queue_is_refused_at_once_with_a_time_to_come_back() -> None:
    async def ask() -> tuple[float, list[Any]]:
        found = batcher(Model(seconds=0.3), max_queued=3)
        waiting = [asyncio.create_task(found.predict(rows(i))) for i in range(3)]
        await asyncio.sleep(0.05)  # the model is at work in its thread
        started = time.perf_counter()
        with pytest.raises(Exhausted, match="3 requests of this model wait") as refused:
            await found.predict(rows(9))
        took = time.perf_counter() - started
        assert refused.value.retry_after_s > 0
        return took, await asyncio.gather(*waiting)

    took, answers = asyncio.run(ask())
    assert took < 0.05
    assert [answer.tolist() for answer in answers] == [[0.0], [2.0], [4.0]]


def test_a_request_larger_than_a_batch_is_one_call_of_the_time_to_come_back() -> None:
    async def ask() -> float:
        found = batcher(Model(seconds=0.1), max_queued=3, max_rows=4)
        waiting = [asyncio.create_task(found.predict(rows(*range(4000)))) for _ in range(3)]
        await waiting[0]
        waiting.append(asyncio.create_task(found.predict(rows(1))))
        await asyncio.sleep(0.02)
        with pytest.raises(Exhausted) as refused:
            await found.predict(rows(9))
        await asyncio.gather(*waiting)
        assert (found._rows, found._alone, found._alone_rows) == (0, 0, 0)
        return refused.value.retry_after_s

    assert 0.15 < asyncio.run(ask()) < 0.5


def test_a_deadline_ends_the_wait_and_the_work_is_never_begun() -> None:
    model = Model(seconds=0.3)

    async def ask() -> float:
        found = batcher(model)
        busy = asyncio.create_task(found.predict(rows(1)))
        await asyncio.sleep(0.02)
        started = time.perf_counter()
        with pytest.raises(DeadlineExceeded, match=r"within the request's 0\.05 s"):
            await found.predict(rows(2), timeout_s=0.05)
        took = time.perf_counter() - started
        with pytest.raises(DeadlineExceeded):
            await found.predict(rows(2), timeout_s=0)
        await busy
        await found.predict(rows(3))
        return took

    assert asyncio.run(ask()) < 0.2
    assert model.calls == [1, 1]


def test_a_caller_that_left_costs_nothing() -> None:
    model = Model(seconds=0.1)

    async def ask() -> None:
        found = batcher(model, max_queued=2)
        busy = asyncio.create_task(found.predict(rows(1)))
        await asyncio.sleep(0.02)
        gone = asyncio.create_task(found.predict(rows(2, 3)))
        await asyncio.sleep(0.02)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert (await found.predict(rows(4))).tolist() == [8.0]  # the place in the queue is free again
        await busy

    asyncio.run(ask())
    assert model.calls == [1, 1]


def test_a_broken_call_breaks_its_requests_and_no_others() -> None:
    async def ask() -> None:
        found = batcher(Model())
        broken = await together(found, rows(float("nan")), rows(1))
        assert all("broke" in str(error) for error in broken)
        assert (await found.predict(rows(5))).tolist() == [10.0]

    asyncio.run(ask())


def test_quick_models_stay_on_the_loop_and_slow_ones_leave_it_free() -> None:
    async def ask(model: Model) -> float:
        found = batcher(model)
        await found.predict(rows(1))
        tick = asyncio.create_task(asyncio.sleep(0))
        task = asyncio.create_task(found.predict(rows(2)))
        await tick
        started = time.perf_counter()
        await asyncio.sleep(0.001)
        free = time.perf_counter() - started
        await task
        return free

    assert asyncio.run(ask(Model(seconds=0.2))) < 0.1
    quick = Model()
    asyncio.run(ask(quick))
    assert batching.INLINE_S > 0
    assert quick.calls == [1, 1]


def test_statistics_count_requests_and_calls() -> None:
    statistics = ModelStatistics("toy", 1)
    found = Batcher(Model(), BatchingSpec(), 10, statistics)
    asyncio.run(together(found, rows(1), rows(2, 3)))
    assert (statistics.inference_count, statistics.execution_count) == (3, 1)
    assert statistics.durations["success"].count == statistics.durations["queue"].count == 2


def test_statistics_add_up_what_requests_took() -> None:
    """Two of one call wait as long as each did, and each counts the whole call."""
    statistics = ModelStatistics("toy", 1)
    found = Batcher(Model(seconds=0.1), BatchingSpec(), 10, statistics)

    async def ask() -> None:
        first = asyncio.create_task(found.predict(rows(1), input_ns=5))
        await asyncio.sleep(0.03)  # the model is busy for another 70 ms
        await together(found, rows(2), rows(3), input_ns=7)
        await first

    asyncio.run(ask())
    took = {phase: (found.count, found.ns) for phase, found in statistics.durations.items()}
    assert took["compute_input"] == (3, 19)
    assert took["queue"][0] == took["compute_infer"][0] == 3
    assert took["queue"][1] > 2 * 0.03e9
    assert took["compute_infer"][1] >= 3 * 0.1e9
    parts = sum(took[phase][1] for phase in ("compute_input", "queue", "compute_infer"))
    assert took["success"] == (3, parts)
