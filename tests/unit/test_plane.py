"""The plane: what is loaded, what takes over, what keeps serving when something is broken."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy

from raymill.errors import Corrupt, InvalidInput, NotFound, Unavailable
from raymill.repo import Repository
from raymill.serving.following import follow
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


def two(repository: Repository, tmp_path: Path) -> Plane:
    """A plane of `toy` and `other`, not loaded yet."""
    toy.publish(repository, tmp_path / "staged-other", model="other")
    repository.label("other", "stable", 1)
    return Plane(repository, {"toy": ModelSpec(serve=("stable",)), "other": ModelSpec()})


def damage(tmp_path: Path, number: int, model: str = "toy") -> None:
    (tmp_path / f"models/{model}/{number}/model.json").write_text('{"weight": 6.0}')


def test_a_model_that_does_not_load_does_not_keep_others_from_starting(
    repository: Repository, tmp_path: Path
) -> None:
    found = two(repository, tmp_path)
    good = (tmp_path / "models/toy/1/model.json").read_text()
    damage(tmp_path, 1)
    found.load()
    assert infer(found, "other", ONE).version == 1
    assert not found.ready()
    assert not found.model_ready("toy")
    (status,) = found.status("toy")
    assert (status.state, "SHA-256" in status.error) == ("END", True)
    with pytest.raises(Unavailable, match=r"no loaded version yet; try again shortly \(.*SHA-256"):
        infer(found, "toy", ONE)
    (tmp_path / "models/toy/1/model.json").write_text(good)
    found.refresh()
    assert found.ready()
    assert infer(found, "toy", ONE).version == 1


def test_a_plane_of_which_nothing_loads_says_why(repository: Repository, tmp_path: Path) -> None:
    found = two(repository, tmp_path)
    damage(tmp_path, 1)
    damage(tmp_path, 1, "other")
    with pytest.raises(Corrupt, match="SHA-256"):
        found.load()


def test_one_that_starts_serves_what_others_have_kept(repository: Repository, tmp_path: Path) -> None:
    old = plane(repository, "stable", "latest")
    toy.publish(repository, tmp_path / "staged-3", weight=9.0)
    repository.label("toy", "stable", 3)
    damage(tmp_path, 3)
    old.refresh()
    new = plane(repository, "stable", "latest")
    for found in (old, new):
        assert found.ready()
        assert infer(found, "toy", ONE).version == 1
        assert (infer(found, "toy", ONE, "stable").version, sorted(found.served()["toy"].versions)) == (
            1,
            [1, 2],
        )
        assert {status.number: status.state for status in found.status("toy")}[3] == "END"
    repository.label("toy", "stable", 2)
    new.refresh()
    assert infer(new, "toy", ONE).version == 2


def test_a_move_that_cannot_be_read_stops_its_model_alone(repository: Repository, tmp_path: Path) -> None:
    found = two(repository, tmp_path)
    repository.label("toy", "stable", 2)
    move = tmp_path / "models/toy/_labels/stable/00000002"
    move.write_bytes(b"")
    found.load()
    assert infer(found, "other", ONE).version == 1
    with pytest.raises(Unavailable, match=r"00000002.*delete the file"):
        infer(found, "toy", ONE)
    assert ["00000002" in entry.reason for entry in found.index()] == [False, True]
    assert str(tmp_path) not in found.index()[1].reason
    move.unlink()
    found.refresh()
    assert infer(found, "toy", ONE).version == 1


def test_a_label_that_is_gone_holds_up_no_other(repository: Repository, tmp_path: Path) -> None:
    repository.label("toy", "canary", 2)
    found = plane(repository, "stable", "canary")
    toy.publish(repository, tmp_path / "staged-3", weight=9.0)
    shutil.rmtree(tmp_path / "models/toy/_labels/canary")
    repository.label("toy", "stable", 3)
    found.refresh()
    assert infer(found, "toy", ONE).version == 3
    with pytest.raises(NotFound, match="serves no label 'canary'"):
        infer(found, "toy", ONE, "canary")
    assert "no label 'canary'" in found.status("toy", 2)[0].error
    repository.label("toy", "canary", 2)
    found.refresh()
    assert infer(found, "toy", ONE, "canary").version == 2


def test_a_default_whose_label_is_gone_stays_while_it_is_loaded(
    repository: Repository, tmp_path: Path
) -> None:
    repository.label("toy", "canary", 2)
    found = plane(repository, "stable", "canary")
    shutil.rmtree(tmp_path / "models/toy/_labels/stable")
    toy.publish(repository, tmp_path / "staged-3", weight=9.0)
    repository.label("toy", "canary", 3)
    found.refresh()
    found.refresh()
    assert infer(found, "toy", ONE).version == 1
    assert infer(found, "toy", ONE, "canary").version == 3
    with pytest.raises(NotFound, match="serves no label 'stable'"):
        infer(found, "toy", ONE, "stable")
    assert infer(plane(repository, "stable", "canary"), "toy", ONE).version == 3


def test_of_several_versions_those_that_load_are_served(repository: Repository, tmp_path: Path) -> None:
    old = plane(repository, "latest:2")
    toy.publish(repository, tmp_path / "staged-3", weight=9.0)
    damage(tmp_path, 3)
    old.refresh()
    for found in (old, plane(repository, "latest:2")):
        assert sorted(found.served()["toy"].versions) == [1, 2]
        assert infer(found, "toy", ONE).version == 2


def test_what_goes_on_being_wrong_is_logged_once(
    repository: Repository, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = plane(repository, "stable")
    shutil.rmtree(tmp_path / "models/toy/_labels/stable")
    for _ in range(3):
        found.refresh()
    assert sum("going on with what is loaded" in record.message for record in caplog.records) == 1


def test_what_was_served_stays_where_nothing_is_there_any_more(repository: Repository) -> None:
    """Then it is rather the storage that is away; the error is told all the same."""
    before = {"stable": (1,), 2: (2,)}
    found, failed = follow(repository, "gone", ("stable", 2), before, lambda number: None)
    assert found == before
    assert {*failed} == {"stable", 2}
