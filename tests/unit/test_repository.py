"""The repository: versions whole or absent whatever happens, labels that remember, messages that help."""

from __future__ import annotations

import json
import os
import sys
import uuid
from pathlib import Path

import pytest
import toy
from pyarrow import fs as pafs
from typer.testing import CliRunner

from raymill.cli import app
from raymill.errors import Conflict, Corrupt, InvalidInput, NotFound
from raymill.repo import Repository
from raymill.repo.manifest import MANIFEST_FILE
from raymill.storage import Location


def local(tmp_path: Path) -> Repository:
    return Repository(str(tmp_path / "models"))


def memory(tmp_path: Path) -> Repository:
    return Repository(f"memory://raymill-{uuid.uuid4().hex}/models")


def subtree(tmp_path: Path) -> Repository:
    (tmp_path / "base").mkdir()
    filesystem = pafs.SubTreeFileSystem(str(tmp_path / "base"), pafs.LocalFileSystem())
    return Repository(Location(filesystem, "models", "sub://models"))


@pytest.fixture(params=[local, memory, subtree], ids=lambda make: make.__name__)
def repository(request, tmp_path) -> Repository:
    return request.param(tmp_path)


@pytest.fixture
def publish(repository, tmp_path):
    def publish(model: str = "toy", weight: float = 2.0):
        return toy.publish(repository, tmp_path / "staged" / uuid.uuid4().hex, model, weight)

    return publish


def test_a_published_version_is_whole_and_described(repository, publish):
    version = publish(weight=3.0)
    assert (version.number, version.manifest.model) == (1, "toy")
    assert version.manifest.metrics == {"test": {"rmse": 3.0}}
    entries = {entry.path: entry for entry in version.manifest.files}
    assert set(entries) == {"model.json", "encoder.json", "golden.json"}
    for entry in entries.values():
        file = version.location / entry.path
        assert (file.info().size, file.sha256()) == (entry.bytes, entry.sha256)


def test_nothing_but_versions_and_labels_is_left_behind(repository, publish):
    publish()
    repository.label("toy", "stable", 1)
    assert [child.name for child in (repository.root / "toy").children()] == ["1", "_labels"]
    assert sorted(child.name for child in (repository.root / "toy" / "1").children()) == [
        "encoder.json", "golden.json", "manifest.json", "model.json",
    ]  # fmt: skip


def test_numbers_count_up_and_each_version_keeps_its_own_files(repository, publish):
    versions = [publish(weight=weight) for weight in (1.0, 2.0, 3.0)]
    assert [version.number for version in versions] == repository.versions("toy") == [1, 2, 3]
    weights = [json.loads((version.location / "model.json").read_bytes())["weight"] for version in versions]
    assert weights == [1.0, 2.0, 3.0]


def test_numbers_are_ordered_as_numbers(repository, publish):
    for _ in range(11):
        publish()
    assert repository.versions("toy")[-2:] == [10, 11]
    assert repository.resolve("toy") == 11


def test_models_are_listed_and_kept_apart(repository, publish):
    publish("b")
    publish("a")
    (repository.root / "empty").make_directory()
    assert repository.models() == ["a", "b"]
    assert repository.versions("empty") == []


def test_files_in_folders_are_published_too(repository, tmp_path):
    staged = toy.stage(tmp_path / "s")
    (staged / "variables" / "deep").mkdir(parents=True)
    (staged / "variables" / "deep" / "data").write_bytes(b"1234")
    version = repository.publish("toy", staged, toy.manifest("toy"), toy.prove)
    assert "variables/deep/data" in {entry.path for entry in version.manifest.files}
    assert (version.location / "variables" / "deep" / "data").read_bytes() == b"1234"


def test_what_reads_back_otherwise_is_never_visible(repository, tmp_path, monkeypatch):
    """A disk or a store that loses the end of a file and says nothing."""
    module = sys.modules["raymill.repo.repository"]
    write, copy = Location.write_bytes, module.copy_tree

    def lose(location: Location, data: bytes) -> None:
        write(location, data[:-1] if location.name == "model.json" else data)

    def copy_and_lose(source: Location, target: Location) -> None:
        copy(source, target)
        write(target / "model.json", b"{")

    monkeypatch.setattr(Location, "write_bytes", lose)
    monkeypatch.setattr(module, "copy_tree", copy_and_lose)
    with pytest.raises(Corrupt, match=r"model\.json' reads back otherwise than it was written"):
        repository.publish("toy", toy.stage(tmp_path / "s"), toy.manifest("toy"), toy.prove)
    assert repository.models() == []


def test_a_refused_version_leaves_nothing(repository, tmp_path):
    def refuse(folder: Path) -> None:
        raise Corrupt("no")

    with pytest.raises(Corrupt):
        repository.publish("toy", toy.stage(tmp_path / "s"), toy.manifest("toy"), refuse)
    assert repository.models() == []
    assert repository.root.files() == []


def test_the_check_sees_the_files_before_anyone_else(repository, tmp_path):
    seen = []

    def check(folder: Path) -> None:
        seen.append((sorted(os.listdir(folder)), repository.versions("toy")))

    repository.publish("toy", toy.stage(tmp_path / "s"), toy.manifest("toy"), check)
    assert seen[0] == (["encoder.json", "golden.json", "model.json"], [])


@pytest.mark.parametrize(
    "name", ["", "../evil", "a/b", ".hidden", "_labels", "x" * 129, "naïve", "a b", "a\n"]
)
def test_a_name_that_no_path_or_url_should_hold_is_refused(repository, publish, name):
    with pytest.raises(InvalidInput, match="must be letters, digits"):
        publish(name)
    assert repository.versions(name) == []
    assert not (repository.root / "toy").exists()


def test_latest_labels_and_numbers_resolve(repository, publish):
    publish()
    publish()
    repository.label("toy", "stable", 1)
    assert [repository.resolve("toy", wanted) for wanted in ("latest", "stable", 2, "2")] == [2, 1, 2, 2]


def test_labels_move_and_remember(repository, publish):
    for _ in range(3):
        publish()
    for wanted in (1, "latest", 2, "2"):
        repository.label("toy", "stable", wanted)
    repository.label("toy", "canary", "latest")
    assert repository.labels("toy") == {"canary": 3, "stable": 2}
    history = repository.history("toy", "stable")
    assert [event.version for event in history] == [1, 3, 2, 2]
    assert [event.at for event in history] == sorted(event.at for event in history)
    assert {event.label for event in history} == {"stable"}


def test_rollback_goes_to_what_was_before_and_back_again(repository, publish):
    for _ in range(3):
        publish()
    for wanted in (1, 3, 3):
        repository.label("toy", "stable", wanted)
    assert repository.rollback("toy", "stable").version == 1
    assert repository.rollback("toy", "stable").version == 3
    assert [event.version for event in repository.history("toy", "stable")] == [1, 3, 3, 1, 3]


def test_rollback_goes_to_the_last_other_version_and_not_to_the_first(repository, publish):
    for _ in range(3):
        publish()
    for wanted in (1, 2, 3):
        repository.label("toy", "stable", wanted)
    assert [repository.rollback("toy", "stable").version for _ in range(2)] == [2, 3]


def test_a_label_may_move_often(repository, publish):
    publish()
    publish()
    moves = [1, 2] * 6
    for wanted in moves:
        repository.label("toy", "stable", wanted)
    assert [event.version for event in repository.history("toy", "stable")] == moves
    assert repository.labels("toy") == {"stable": 2}


def test_a_label_that_never_moved_cannot_go_back(repository, publish):
    publish()
    repository.label("toy", "stable", 1)
    repository.label("toy", "stable", 1)
    with pytest.raises(Conflict, match="label 'stable' of 'toy' has only ever pointed at version 1"):
        repository.rollback("toy", "stable")


@pytest.mark.parametrize("label", ["latest", "12", "", "a/b", "../x", "_x"])
def test_labels_that_could_be_taken_for_something_else_are_refused(repository, publish, label):
    publish()
    with pytest.raises(InvalidInput, match="not a number and not 'latest'"):
        repository.label("toy", label, 1)
    assert repository.labels("toy") == {}


def test_a_label_begun_and_never_written_is_no_label(repository, publish):
    """A process that died between making the label's folder and its first event."""
    publish()
    repository.label("toy", "stable", 1)
    (repository.root / "toy" / "_labels" / "canary").make_directory()
    assert repository.labels("toy") == {"stable": 1}
    assert repository.resolve("toy", "stable") == 1
    with pytest.raises(NotFound, match="model 'toy' has no label 'canary'"):
        repository.history("toy", "canary")


@pytest.mark.parametrize(
    "data", [b"", b"{", b"null", b"7", b'{"version": 1}', b'{"version": "1", "at": "", "by": ""}']
)
def test_a_move_that_cannot_be_read_breaks_its_label_and_no_other(repository, publish, data):
    publish()
    publish()
    repository.label("toy", "stable", 1)
    repository.label("toy", "stable", 2)
    repository.label("toy", "canary", 2)
    move = repository.root / "toy" / "_labels" / "stable" / "00000002"
    move.write_bytes(data)
    for ask in (repository.resolve, repository.history, repository.rollback):
        with pytest.raises(Corrupt, match=r"stable/00000002', a move of label 'stable', .*; delete the file"):
            ask("toy", "stable")
    with pytest.raises(Corrupt, match="00000002"):
        repository.labels("toy")
    assert "00000002" in refusal(lambda: repository.resolve("toy", "none"))
    assert repository.resolve("toy", "canary") == 2
    move.remove()
    assert repository.resolve("toy", "stable") == 1


def test_models_are_listed_beside_one_whose_label_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYMILL_HOME", str(tmp_path / "home"))
    found = local(tmp_path)
    for model in ("alpha", "beta"):
        toy.publish(found, tmp_path / model, model)
        found.label(model, "stable", 1)
    (tmp_path / "models/beta/_labels/stable/00000001").write_bytes(b"")
    listed = CliRunner().invoke(app, ["models", "list", "--repository", str(tmp_path / "models")])
    assert listed.exit_code == 0
    assert "stable=1" in listed.output
    assert "damaged" in listed.output
    assert "00000001', a move of label 'stable', cannot be read" in listed.stderr


def refusal(call) -> str:
    with pytest.raises(NotFound) as caught:
        call()
    return str(caught.value)


def test_forms_of_latest_are_several_versions(repository, publish):
    with pytest.raises(NotFound):
        repository.resolve_all("toy", "latest:2")
    for _ in range(11):
        publish("toy")
    repository.label("toy", "stable", 2)
    assert repository.resolve_all("toy", "latest:2") == [11, 10]
    assert repository.resolve_all("toy", "latest:all") == repository.resolve_all("toy", "latest:99")
    assert repository.resolve_all("toy", "latest:all") == list(range(11, 0, -1))
    assert [repository.resolve_all("toy", wanted) for wanted in ("stable", 3, "3", "latest")] == [
        [2], [3], [3], [11],
    ]  # fmt: skip
    for wrong in ("latest:0", "latest:", "latest:-1", "latest:x"):
        with pytest.raises(NotFound, match="has no label"):
            repository.resolve_all("toy", wrong)


def test_what_is_absent_is_told_with_what_is_there(repository, publish):
    root = repository.root.uri
    assert (
        refusal(lambda: repository.resolve("toy")) == f"repository {root!r} has no model 'toy'; it is empty."
    )
    publish("flights")
    assert refusal(lambda: repository.resolve("flihgts")) == (
        f"repository {root!r} has no model 'flihgts'; have: flights. Did you mean 'flights'?"
    )
    publish("flights")
    repository.label("flights", "stable", 1)
    there = "; versions: 1, 2; labels: stable -> 1"
    assert refusal(lambda: repository.resolve("flights", 7)) == f"model 'flights' has no version 7{there}"
    assert refusal(lambda: repository.version("flights", 7)) == f"model 'flights' has no version 7{there}"
    assert (
        refusal(lambda: repository.resolve("flights", "canary"))
        == f"model 'flights' has no label 'canary'{there}"
    )
    assert (
        refusal(lambda: repository.label("flights", "canary", 7))
        == f"model 'flights' has no version 7{there}"
    )
    assert refusal(lambda: repository.history("flights", "x")) == "model 'flights' has no label 'x'"
    assert refusal(lambda: repository.rollback("flights", "x")) == "model 'flights' has no label 'x'"


def test_digits_of_other_scripts_are_labels_and_not_numbers(repository, publish):
    publish()
    assert "no label '²'" in refusal(lambda: repository.resolve("toy", "²"))


def test_a_manifest_that_cannot_be_read_is_corrupt_and_named(repository, publish):
    version = publish()
    (version.location / MANIFEST_FILE).write_bytes(b'{"model": "toy"')
    with pytest.raises(Corrupt, match=r"toy/1' cannot be read"):
        repository.version("toy", 1)


def test_a_version_without_a_manifest_is_not_there_and_its_number_is_not_used_again(repository, publish):
    """What a publisher on an object store leaves when it dies before the manifest."""
    (repository.root / "toy" / "1").make_directory()
    (repository.root / "toy" / "1" / "model.json").write_bytes(b"{}")
    assert repository.versions("toy") == []
    assert publish().number == 2
    assert repository.versions("toy") == [2]


def test_files_that_are_no_versions_do_not_disturb(repository, publish):
    publish()
    (repository.root / "toy" / "notes.txt").write_bytes(b"x")
    (repository.root / "README").write_bytes(b"x")
    assert (repository.models(), repository.versions("toy")) == (["toy"], [1])
    assert publish().number == 2
