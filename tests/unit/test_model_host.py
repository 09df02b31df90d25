"""A model's own replicas: what they hold, what they load on demand, and what they say when they cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy

from raymill.errors import Corrupt, Unavailable
from raymill.repo import Repository
from raymill.serving import model_host
from raymill.serving.model_host import ModelHost
from raymill.serving.overrides import Override
from raymill.serving.spec import ModelSpec

POLL_S = 0.02


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(str(tmp_path / "models"))
    for number in (1, 2):
        toy.publish(repository, tmp_path / f"staged-{number}", weight=float(number))
    repository.label("toy", "stable", 1)
    return repository


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Versions, as often as they were loaded."""
    load, loads = ModelHost._load, list[int]()

    def counting(self: ModelHost, number: int) -> Any:
        loads.append(number)
        return load(self, number)

    monkeypatch.setattr(ModelHost, "_load", counting)
    return loads


def run(
    repository: Repository,
    use: Callable[[ModelHost], Awaitable[None]],
    override: Callable[[], Override] = Override,
    least: int = 1,
) -> None:
    own = {"autoscaling": {"min_replicas": least}}
    spec = ModelSpec.model_validate({"placement": "own", "own": own}).model_dump(mode="json")

    async def main() -> None:
        host = ModelHost(repository.root.uri, "toy", spec, POLL_S, override)
        await use(host)
        await host.check_health()
        host._follower.cancel()

    asyncio.run(main())


async def ask(host: ModelHost, number: int) -> Any:
    return await host.predict(number, np.ones((1, 1), np.float32), np.zeros((1, 1), np.int32), None)


def test_a_version_asked_for_stays_as_long_as_it_is(
    repository: Repository, loads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(host: ModelHost) -> None:
        for _ in range(8):
            assert (await ask(host, 2)).tolist() == [2.0]
            await asyncio.sleep(POLL_S * 1.5)
        assert loads == [1, 2]
        monkeypatch.setattr(model_host, "KEEP_S", 0.0)
        await asyncio.sleep(POLL_S * 5)
        assert set(host._versions) == {1}

    run(repository, use)


def test_what_clients_reload_and_unload_is_followed(
    repository: Repository, loads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_host, "KEEP_S", 0.0)
    override = [Override()]

    async def use(host: ModelHost) -> None:
        for changed, held in (
            (Override(serve=(2,)), {2}),
            (Override(unloaded=True), set()),
            (Override(), {1}),
        ):
            override[0] = changed
            await asyncio.sleep(POLL_S * 10)
            assert set(host._versions) == held

    run(repository, use, lambda: override[0])


def test_one_scaled_from_zero_says_why_it_cannot_answer(repository: Repository, tmp_path: Path) -> None:
    model = tmp_path / "models/toy/1/model.json"
    good = model.read_text()
    model.write_text("{}")

    async def use(host: ModelHost) -> None:
        error = await ask(host, 1)
        assert isinstance(error, Unavailable)
        assert "version 1 of model 'toy' does not load" in str(error)
        assert "SHA-256" in str(error)
        assert str(tmp_path) not in str(error)
        model.write_text(good)
        assert (await ask(host, 1)).tolist() == [1.0]

    run(repository, use, least=0)


def test_others_do_not_start_so_that_those_that_run_stay(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "models/toy/1/model.json").write_text("{}")

    async def never(host: ModelHost) -> None:
        raise AssertionError("it started")

    with pytest.raises(Corrupt, match="SHA-256"):
        run(repository, never)
