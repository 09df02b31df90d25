"""What clients change on a cluster: kept for one deployment, for all its replicas, and for no other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ray.experimental import internal_kv

from raymill.serving.overrides import Override
from raymill.serving.ray_overrides import ClusterOverrides, override_of


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, bytes]:
    """The cluster's key-value store."""
    kept: dict[bytes, bytes] = {}

    def put(key: bytes, value: bytes, **_: Any) -> None:
        kept[key] = value

    def delete(key: bytes, *, del_by_prefix: bool = False, **_: Any) -> None:
        for name in [name for name in kept if name == key or (del_by_prefix and name.startswith(key))]:
            del kept[name]

    def found(prefix: bytes, **_: Any) -> list[bytes]:
        return [key for key in kept if key.startswith(prefix)]

    monkeypatch.setattr(internal_kv, "_internal_kv_put", put)
    monkeypatch.setattr(internal_kv, "_internal_kv_get", lambda key, **_: kept.get(key))
    monkeypatch.setattr(internal_kv, "_internal_kv_del", delete)
    monkeypatch.setattr(internal_kv, "_internal_kv_list", found)
    return kept


def test_later_replicas_of_a_deployment_see_what_the_next_one_does_not(store: dict[bytes, bytes]) -> None:
    first = ClusterOverrides("first", lambda: 1)
    first.write("toy", Override(unloaded=True, change="c1"))
    assert ClusterOverrides("first", lambda: 1).read() == first.read()
    assert override_of("first", "toy").unloaded
    assert not override_of("first", "other").unloaded
    second = ClusterOverrides("second", lambda: 1)
    assert second.read() == {}
    second.write("toy", Override(change="c2"))
    first.applied(["c1"])
    second.forget_others()
    assert list(second.read()) == ["toy"]
    assert [key for key in store if not key.startswith(b"second/")] == []


def test_a_change_waits_for_as_many_replicas_as_run(store: dict[bytes, bytes]) -> None:
    asked, other = (ClusterOverrides("first", lambda: 2) for _ in range(2))
    asked.write("toy", Override(change="c1"))
    asked.applied(["c1"])

    async def change() -> None:
        waiting = asyncio.create_task(asked.everywhere(["c1"]))
        await asyncio.sleep(0.15)
        assert not waiting.done()
        await asyncio.to_thread(other.applied, ["c1"])
        await asyncio.wait_for(waiting, 5)

    asyncio.run(change())
    assert list(store) == [b"first/records/toy"]
