"""More requests than fit, and requests whose time is over: each protocol's own code, at once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import toy
from asgi import LIMIT
from test_protocols import DIALECTS

from raymill.features import Features
from raymill.repo import Repository
from raymill.serving import PROTOCOLS
from raymill.serving.http import HttpApp
from raymill.serving.plane import Plane
from raymill.serving.spec import ModelSpec

QUEUE, SLOW_S = 4, 0.4


@pytest.fixture
def slow(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> HttpApp:
    """The toy, of which a call takes SLOW_S, with room for QUEUE requests."""
    repository = Repository(str(tmp_path / "models"))
    toy.publish_kinds(repository, tmp_path / "staged")
    quick = toy.ToyPredictor.predict

    def predict(self: Any, features: Features) -> np.ndarray:
        time.sleep(SLOW_S)
        return quick(self, features)

    monkeypatch.setattr(toy.ToyPredictor, "predict", predict)
    plane = Plane(repository, {"toy": ModelSpec(max_queued_requests=QUEUE)})
    plane.load()
    return HttpApp(plane, [PROTOCOLS.load(name)(plane) for name in PROTOCOLS], LIMIT)


async def one(
    app: HttpApp, path: str, body: Any, timeout: str | None = None
) -> tuple[int, dict[str, str], float]:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(body).encode()}

    async def take(message: Any) -> None:
        sent.append(message)

    started = time.perf_counter()
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b""}
    scope["headers"] = [(b"x-request-timeout-seconds", timeout.encode())] if timeout else []
    await app(scope, receive, take)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, time.perf_counter() - started


@pytest.mark.parametrize("name", DIALECTS)
def test_beyond_the_queue_is_refused_within_50_ms(slow: HttpApp, name: str) -> None:
    async def burst(request: Callable[[], Any]) -> list[Any]:
        first = [asyncio.create_task(request()) for _ in range(QUEUE)]
        await asyncio.sleep(0.1)
        return [*await asyncio.gather(*(request() for _ in range(3))), *await asyncio.gather(*first)]

    path, body = DIALECTS[name].path("toy", ""), DIALECTS[name].body(toy.ROWS)
    answers = asyncio.run(burst(lambda: one(slow, path, body)))
    for status, headers, seconds in answers[:3]:
        assert status == 429
        assert int(headers["retry-after"]) >= 1
        assert seconds < 0.05
    assert [status for status, _, _ in answers[3:]] == [200] * QUEUE


@pytest.mark.parametrize("name", DIALECTS)
def test_the_requests_own_deadline(slow: HttpApp, name: str) -> None:
    path, body = DIALECTS[name].path("toy", ""), DIALECTS[name].body(toy.ROWS)

    async def in_turn() -> list[Any]:
        return [await one(slow, path, body, timeout) for timeout in ("0.1", "20", "soon", "-1", "nan", "inf")]

    (status, _, seconds), *others = asyncio.run(in_turn())
    assert (status, seconds < SLOW_S) == (504, True)
    assert [status for status, _, _ in others] == [200, 400, 400, 400, 400]
    counts = {phase: found.count for phase, found in slow._plane.statistics("toy")[0].durations.items()}
    assert (counts["success"], counts["fail"]) == (1, 1)
