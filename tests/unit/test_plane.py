"""The plane: what is loaded, what takes over, what keeps serving when something is broken."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy

from raymill.errors import InvalidInput, NotFound, Unavailable
from raymill.repo import Repository
from raymill.serving.plane import Answer, Plane
from raymill.serving.spec import ModelSpec

ONE = {"x": [3.0], "w": ["a"]}  # weight * 3 + 1


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(str(tmp_path / "models"))
    for number, weight in enumerate((2.0, 5.0), 1):
        toy.publish(repository, tmp_path / f"staged-{number}", weight=weight)
    repository.label("toy", "stable", 1)
    return repository


def infer(plane: Plane, model: str, columns: Mapping[str, Any], wanted: str | int | None = None) -> Answer:
    return asyncio.run(plane.infer(model, columns, wanted))


def plane(repository: Repository, *serve: str | int) -> Plane:
    made = Plane(repository, {"toy": ModelSpec(serve=serve)})
    made.load()
    return made


def test_first_named_answers_and_others_by_name(repository: Repository) -> None:
    found = plane(repository, "stable", "latest")
    assert infer(found, "toy", ONE).version == 1
    assert infer(found, "toy", ONE).outputs["prediction"].tolist() == [7.0]
    assert infer(found, "toy", ONE, 2).outputs["prediction"].tolist() == [16.0]
    assert infer(found, "toy", ONE, "stable").version == 1
    assert infer(found, "toy", ONE).outputs["prediction"].dtype == np.float32
    assert [status.number for status in found.status("toy")] == [2, 1]


def test_a_moved_label_takes_over_and_the_old_version_goes(repository: Repository) -> None:
    found = plane(repository, "stable")
    repository.label("toy", "stable", 2)
    assert infer(found, "toy", ONE).version == 1  # until it looks
    found.refresh()
    assert infer(found, "toy", ONE).version == 2
    assert {status.number: status.state for status in found.status("toy")} == {1: "END", 2: "AVAILABLE"}
    with pytest.raises(NotFound, match="serves no version 1; versions: 2"):
        infer(found, "toy", ONE, 1)


def test_latest_follows_publishing(repository: Repository, tmp_path: Path) -> None:
    found = plane(repository, "latest")
    toy.publish(repository, tmp_path / "staged-3", weight=9.0)
    found.refresh()
    assert infer(found, "toy", ONE).version == 3


def test_a_damaged_version_never_takes_over(repository: Repository, tmp_path: Path) -> None:
    found = plane(repository, "stable")
    (tmp_path / "models/toy/2/model.json").write_text('{"weight": 6.0}')
    repository.label("toy", "stable", 2)
    found.refresh()
    assert infer(found, "toy", ONE).outputs["prediction"].tolist() == [7.0]
    statuses = {status.number: status for status in found.status("toy")}
    assert statuses[2].state == "END"
    assert "SHA-256" in statuses[2].error
    repository.rollback("toy", "stable")
    found.refresh()
    assert infer(found, "toy", ONE).version == 1


def test_a_repository_that_vanishes_for_a_while_stops_nothing(repository: Repository, tmp_path: Path) -> None:
    found = plane(repository, "stable")
    (tmp_path / "models").rename(tmp_path / "away")
    found.refresh()
    assert infer(found, "toy", ONE).version == 1
    (tmp_path / "away").rename(tmp_path / "models")
    repository.label("toy", "stable", 2)
    found.refresh()
    assert infer(found, "toy", ONE).version == 2


def test_whatever_one_model_s_storage_raises_others_follow(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.publish(repository, tmp_path / "staged-other", model="aaa")
    found = Plane(repository, {"aaa": ModelSpec(serve=("latest",)), "toy": ModelSpec(serve=("stable",))})
    found.load()
    resolve = Repository.resolve

    def failing(self: Repository, model: str, wanted: str | int) -> int:
        if model == "aaa":
            raise RuntimeError("an error of the storage's own")
        return resolve(self, model, wanted)

    monkeypatch.setattr(Repository, "resolve", failing)
    repository.label("toy", "stable", 2)
    found.refresh()
    assert infer(found, "toy", ONE).version == 2
    assert infer(found, "aaa", ONE).version == 1


def test_requests_during_a_change_see_one_version_whole(repository: Repository) -> None:
    found = plane(repository, "stable")
    right = {1: [7.0], 2: [16.0]}
    wrong: list[object] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answer = infer(found, "toy", ONE)
            if answer.outputs["prediction"].tolist() != right[answer.version]:
                wrong.append(answer)

    thread = threading.Thread(target=ask)
    thread.start()
    for number in (2, 1) * 20:
        repository.label("toy", "stable", number)
        found.refresh()
    stop.set()
    thread.join()
    assert wrong == []
    assert infer(found, "toy", ONE).version == 1


def test_a_request_whose_caller_gave_up_has_failed(repository: Repository) -> None:
    found = plane(repository, "stable")

    async def give_up() -> None:
        task = asyncio.create_task(found.infer("toy", ONE))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(give_up())
    durations = found.statistics("toy")[0].durations
    assert (durations["success"].count, durations["fail"].count) == (0, 1)


@pytest.mark.parametrize("serve", ["canary", 7, "7"])
def test_what_is_not_there_is_refused_at_load(repository: Repository, serve: str | int) -> None:
    with pytest.raises(NotFound, match=r"versions: 1, 2; labels: stable -> 1"):
        plane(repository, serve)


def test_unknown_and_unloaded_models(repository: Repository) -> None:
    found = Plane(repository, {"toy": ModelSpec()})
    assert not found.ready()
    with pytest.raises(Unavailable, match="no loaded version yet"):
        infer(found, "toy", ONE)
    with pytest.raises(NotFound, match="Did you mean 'toy'"):
        infer(found, "toyy", ONE)
    found.load()
    assert found.ready()
    with pytest.raises(InvalidInput, match="missing inputs: w"):
        infer(found, "toy", {"x": [1.0]})
