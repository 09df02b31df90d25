"""Checkpoints in storage are whole or absent, and what killed workers left goes."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pytest

from raymill.storage import locate
from raymill.train.checkpoint import SNAPSHOT, store, sweep


def writer(directory: Path) -> None:
    (directory / "weights").write_bytes(b"w" * 1000)
    (directory / "state.json").write_text("{}")


def test_stored_whole_under_its_name(tmp_path: Path) -> None:
    stored = store(locate(tmp_path), "checkpoint_1", writer)
    assert sorted(file.name for file in (tmp_path / "checkpoint_1").iterdir()) == ["state.json", "weights"]
    assert stored.path == str(tmp_path / "checkpoint_1")
    assert [child.name for child in tmp_path.iterdir()] == ["checkpoint_1"]


def test_a_writer_that_dies_leaves_no_checkpoint(tmp_path: Path) -> None:
    def dies(directory: Path) -> None:
        writer(directory)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store(locate(tmp_path), "checkpoint_1", dies)
    assert not (tmp_path / "checkpoint_1").exists()
    assert sweep(locate(tmp_path)) == [".writing-checkpoint_1"]
    assert list(tmp_path.iterdir()) == []


def test_elsewhere_it_is_copied_there() -> None:
    store(locate("memory://runs/r"), "checkpoint_1", writer)
    assert fsspec.filesystem("memory").cat("/runs/r/checkpoint_1/weights") == b"w" * 1000


def test_only_what_the_snapshot_does_not_name_is_swept(tmp_path: Path) -> None:
    for name in ("checkpoint_1", "checkpoint_2"):
        store(locate(tmp_path), name, writer)
    (tmp_path / "run.json").write_text("{}")
    snapshot = {"checkpoint_results": [{"checkpoint_dir_name": "checkpoint_2", "metrics": {}}]}
    (tmp_path / SNAPSHOT).write_text(json.dumps(snapshot))
    assert sweep(locate(tmp_path)) == ["checkpoint_1"]
    assert sorted(child.name for child in tmp_path.iterdir()) == ["checkpoint_2", SNAPSHOT, "run.json"]


def test_a_run_that_never_began_has_nothing_to_sweep(tmp_path: Path) -> None:
    assert sweep(locate(tmp_path / "nowhere")) == []
