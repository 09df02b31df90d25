"""The repository on one disk: publishers that race, die or find it full, and labels that two move at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest
import toy
from pyarrow import fs as pafs

from raymill.repo import Repository
from raymill.storage import Location, locate


@pytest.fixture
def disk(tmp_path) -> Repository:
    return Repository(str(tmp_path / "models"))


SPAWN = multiprocessing.get_context("spawn")


def publish_many(root: str, folder: str, weight: float, count: int, barrier) -> None:
    repository = Repository(root)
    barrier.wait()
    for number in range(count):
        toy.publish(repository, Path(folder) / str(number), weight=weight)


def test_two_publishers_racing_lose_no_version_and_mix_none(disk, tmp_path):
    count, barrier = 15, SPAWN.Barrier(2)
    publishers = [
        SPAWN.Process(
            target=publish_many, args=(disk.root.uri, str(tmp_path / str(weight)), weight, count, barrier)
        )
        for weight in (1.0, 2.0)
    ]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join(60)
    assert [publisher.exitcode for publisher in publishers] == [0, 0]
    assert disk.versions("toy") == list(range(1, 2 * count + 1))
    weights = []
    for number in disk.versions("toy"):
        version = disk.version("toy", number)
        weight = json.loads((version.location / "model.json").read_bytes())["weight"]
        assert version.manifest.metrics["test"]["rmse"] == weight
        assert all((version.location / e.path).sha256() == e.sha256 for e in version.manifest.files)
        weights.append(weight)
    assert sorted(weights) == [1.0] * count + [2.0] * count


def test_a_number_taken_between_listing_and_renaming_is_passed_over(disk, tmp_path, monkeypatch):
    toy.publish(disk, tmp_path / "first", weight=1.0)
    module = sys.modules["raymill.repo.repository"]
    answers = iter([1, 1, 2])
    monkeypatch.setattr(module, "_next_number", lambda home: next(answers))
    assert toy.publish(disk, tmp_path / "second", weight=2.0).number == 2
    assert disk.version("toy", 1).manifest.metrics == {"test": {"rmse": 1.0}}
    assert disk.versions("toy") == [1, 2]


def publish_and_die(root: str, folder: str) -> None:
    """Die by SIGKILL with all files copied aside and not yet renamed."""
    from raymill.repo import repository as module

    real = module.copy_tree

    def copy_then_die(source: Location, target: Location) -> None:
        real(source, target)
        os.kill(os.getpid(), signal.SIGKILL)

    module.copy_tree = copy_then_die
    toy.publish(Repository(root), Path(folder))


def test_a_publisher_killed_before_the_rename_leaves_nothing_visible(disk, tmp_path):
    toy.publish(disk, tmp_path / "first")
    victim = SPAWN.Process(target=publish_and_die, args=(disk.root.uri, str(tmp_path / "second")))
    victim.start()
    victim.join(60)
    assert victim.exitcode == -signal.SIGKILL
    left = [child.name for child in (disk.root / "toy").children() if child.name.startswith("_publishing-")]
    assert len(left) == 1, "the copy was made"
    assert (disk.models(), disk.versions("toy"), disk.resolve("toy")) == (["toy"], [1], 1)
    assert toy.publish(disk, tmp_path / "third", weight=9.0).number == 2
    assert disk.version("toy", 2).manifest.metrics == {"test": {"rmse": 9.0}}


def test_a_copy_that_fails_leaves_nothing(disk, tmp_path, monkeypatch):
    def full(source: Location, target: Location) -> None:
        (target / "model.json").write_bytes(b"{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys.modules["raymill.repo.repository"], "copy_tree", full)
    with pytest.raises(OSError, match="No space left"):
        toy.publish(disk, tmp_path / "s")
    assert disk.root.files() == []
    assert disk.versions("toy") == []


def test_a_rename_that_fails_for_good_is_not_retried(disk, tmp_path, monkeypatch):
    calls = []

    class Broken(pafs.LocalFileSystem):
        def move(self, src, dest):
            calls.append(dest)
            raise PermissionError(13, "Permission denied")

    repository = Repository(Location(Broken(), disk.root.path, disk.root.uri))
    with pytest.raises(PermissionError):
        toy.publish(repository, tmp_path / "s")
    assert len(calls) == 1
    assert disk.versions("toy") == []
    assert locate(tmp_path / "models" / "toy").children() == []


def move_often(root, version, moves):
    repository = Repository(root)
    for _ in range(moves):
        repository.label("toy", "stable", version)


def test_two_processes_that_move_a_label_lose_no_move(disk, tmp_path):
    for number in (1, 2):
        toy.publish(disk, tmp_path / f"staged-{number}")
    movers = [SPAWN.Process(target=move_often, args=(str(disk.root.path), version, 40)) for version in (1, 2)]
    for mover in movers:
        mover.start()
    for mover in movers:
        mover.join()
        assert mover.exitcode == 0
    versions = [event.version for event in disk.history("toy", "stable")]
    assert (versions.count(1), versions.count(2)) == (40, 40)
