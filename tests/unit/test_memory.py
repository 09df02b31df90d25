"""The memory budget: who goes, and who comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import toy

from raymill.errors import Corrupt, Unavailable
from raymill.repo import Repository
from raymill.serving.memory import Memory
from raymill.serving.plane import Plane
from raymill.serving.spec import ModelSpec
from raymill.storage import Location

ONE = {"x": [3.0], "w": ["a"]}
NAMES = ("a", "b", "c")


@pytest.fixture
def plane(tmp_path: Path) -> Plane:
    """Three models, of which two fit."""
    repository = Repository(str(tmp_path / "models"))
    size = 0
    for name in NAMES:
        version = toy.publish(repository, tmp_path / f"staged-{name}", model=name)
        repository.label(name, "stable", 1)
        size = sum(entry.bytes for entry in version.manifest.files)
    found = Plane(repository, {name: ModelSpec() for name in NAMES}, memory=Memory(int(size * 2.5)))
    found.load()
    return found


def in_memory(plane: Plane) -> list[str]:
    return [name for name in NAMES if plane.served()[name].versions[1].in_memory]


def ask(plane: Plane, *names: str) -> None:
    async def each() -> None:
        answers = await asyncio.gather(*(plane.infer(name, ONE) for name in names))
        assert [answer.outputs["prediction"].tolist() for answer in answers] == [[7.0]] * len(names)

    asyncio.run(each())


def test_the_least_recently_used_goes_and_comes_back_on_use(plane: Plane) -> None:
    assert in_memory(plane) == ["b", "c"]
    assert plane.ready()
    ask(plane, "b")
    ask(plane, "a")  # c has not been used since it was loaded
    assert in_memory(plane) == ["a", "b"]
    ask(plane, *"aabbcc" * 5)
    assert len(in_memory(plane)) == 2
    assert plane.manifest("a")[0] == 1


def test_what_does_not_come_back_whole_is_refused(plane: Plane, tmp_path: Path) -> None:
    (tmp_path / "models/a/1/model.json").write_text('{"weight": 9.0}')
    with pytest.raises(Corrupt, match="SHA-256"):
        ask(plane, "a")
    ask(plane, "b")


def test_what_cannot_be_reached_now_may_be_asked_again(
    plane: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").rename(tmp_path / "away")
    with pytest.raises(Unavailable, match="try again"):
        ask(plane, "a")
    (tmp_path / "away").rename(tmp_path / "models")
    with monkeypatch.context() as patched:
        patched.setattr(Location, "read_bytes", lambda _: (_ for _ in ()).throw(OSError("timed out")))
        with pytest.raises(Unavailable, match="timed out; try again"):
            ask(plane, "a")
    ask(plane, "a")
    (tmp_path / "models/b/1/model.json").unlink()
    with pytest.raises(Corrupt, match="is missing"):
        ask(plane, "b")


def test_one_larger_than_the_budget_is_kept_alone(tmp_path: Path) -> None:
    repository = Repository(str(tmp_path / "models"))
    toy.publish(repository, tmp_path / "staged", model="a")
    found = Plane(repository, {"a": ModelSpec(serve=(1,))}, memory=Memory(1))
    found.load()
    ask(found, "a", "a")
