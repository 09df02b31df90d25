"""Clients that change what is served at the same time: every change is made whole, and readers see no gap."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import toy

from raymill.errors import NotFound, Unavailable
from raymill.repo import Repository
from raymill.serving.grpc_health import GrpcHealth
from raymill.serving.oip_grpc import OipGrpc
from raymill.serving.overrides import Override
from raymill.serving.plane import Plane
from raymill.serving.proto import oip_messages_pb2 as oip
from raymill.serving.spec import ModelSpec

SECONDS = 2.0


def made(tmp_path: Path) -> Plane:
    repository = Repository(str(tmp_path / "models"))
    plane = Plane(
        repository, {model: ModelSpec() for model in toy.publish_kinds(repository, tmp_path / "staged")}
    )
    plane.load()
    return plane


def test_changes_at_the_same_time_break_nothing(tmp_path: Path) -> None:
    plane = made(tmp_path)
    health, rpcs = GrpcHealth(plane), OipGrpc(plane)
    stable = ("stable",)
    loop: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        lambda: plane.replace(dict.fromkeys(("toy", "strict", "vector"), stable)),
        lambda: plane.replace(dict.fromkeys(("strict", "kinds"), stable)),
        lambda: plane.load_model("toy"),
        lambda: plane.unload_model("toy"),
        lambda: asyncio.to_thread(plane.refresh),
        lambda: health.List(None),
        lambda: rpcs.RepositoryIndex(oip.RepositoryIndexRequest()),
        lambda: rpcs.ModelStatistics(oip.ModelStatisticsRequest()),
        lambda: rpcs.ModelMetadata(oip.ModelMetadataRequest(name="toy")),
        lambda: rpcs.ServerReady(oip.ServerReadyRequest()),
    ]
    may_fail = {*loop[2:4], loop[8]}  # the model may just be gone
    deadline = time.monotonic() + SECONDS

    def run(ask: Callable[[], Coroutine[Any, Any, Any]]) -> int:
        count = 0
        while time.monotonic() < deadline:
            try:
                asyncio.run(ask())
            except (NotFound, Unavailable):
                assert ask in may_fail
            count += 1
        return count

    with ThreadPoolExecutor(len(loop)) as pool:
        assert min(pool.map(run, loop)) > 2
    served = set(plane.served())
    assert served - {"toy"} in ({"strict", "vector"}, {"strict", "kinds"}), "a change was made by half"


def test_a_model_that_another_replica_takes_away_meanwhile_is_not_found(tmp_path: Path) -> None:
    """Of two clients the later one's word holds, and the other one is told so."""
    plane = made(tmp_path)
    read = plane._overrides.read
    plane._overrides.read = lambda: {**read(), "toy": Override(removed=True)}  # type: ignore[method-assign]
    with pytest.raises(NotFound, match="is not served"):
        asyncio.run(plane.load_model("toy"))
    assert "toy" not in plane.models()
