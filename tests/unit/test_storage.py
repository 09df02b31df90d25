"""Locations on local disks, fsspec's memory and a subtree: the same behaviour on each."""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
import uuid
from pathlib import Path

import pytest
from pyarrow import fs as pafs

from raymill import storage
from raymill.errors import NotFound, SpecError
from raymill.storage import Location, copy_tree, locate


def local(tmp_path: Path) -> Location:
    return locate(tmp_path / "root")


def memory(tmp_path: Path) -> Location:
    return locate(f"memory://raymill-{uuid.uuid4().hex}/root")


def subtree(tmp_path: Path) -> Location:
    (tmp_path / "base").mkdir()
    return Location(
        pafs.SubTreeFileSystem(str(tmp_path / "base"), pafs.LocalFileSystem()), "root", "sub://root"
    )


@pytest.fixture(params=[local, memory, subtree], ids=lambda make: make.__name__)
def root(request, tmp_path) -> Location:
    location = request.param(tmp_path)
    location.make_directory()
    return location


def test_bytes_come_back(root):
    file = root / "a" / "b.bin"
    (root / "a").make_directory()
    data = bytes(range(256)) * 5000
    file.write_bytes(data)
    assert file.read_bytes() == data
    assert file.sha256() == hashlib.sha256(data).hexdigest()
    assert file.info().size == len(data)
    with file.open_input() as stream:
        stream.seek(3)
        assert stream.read(2) == data[3:5]


def test_paths_names_and_uris_grow_together(root):
    file = root / "a" / "b.bin"
    assert file.name == "b.bin"
    assert file.uri == str(file) == f"{root.uri}/a/b.bin"


def test_existence(root):
    assert root.exists()
    assert root.is_directory()
    assert not (root / "absent").exists()
    (root / "file").write_bytes(b"x")
    assert (root / "file").exists()
    assert not (root / "file").is_directory()


def test_an_absent_file_is_named(root):
    with pytest.raises(NotFound, match="absent"):
        (root / "absent").read_bytes()


def test_children_are_sorted_and_files_are_found_at_any_depth(root):
    for name in ("b", "a", "c/d"):
        target = root / name
        (root / "c").make_directory()
        target.write_bytes(name.encode())
    assert [child.name for child in root.children()] == ["a", "b", "c"]
    assert [child.name for child in root.children(recursive=True)] == ["a", "b", "c", "d"]
    found = root.files()
    assert [file.uri.removeprefix(root.uri) for file, _ in found] == ["/a", "/b", "/c/d"]
    assert [file.read_bytes() for file, _ in found] == [b"a", b"b", b"c/d"]
    assert [info.size for _, info in found] == [1, 1, 3]


def test_an_absent_directory_has_no_children(root):
    assert (root / "absent").children() == []
    assert (root / "absent").files() == []


def test_replacing_leaves_the_new_bytes_and_no_other_file(root):
    file = root / "state"
    file.replace_bytes(b"old")
    file.replace_bytes(b"new")
    assert file.read_bytes() == b"new"
    assert [child.name for child in root.children()] == ["state"]


def test_readers_of_a_replaced_file_see_old_or_new_and_never_a_part(tmp_path):
    file = local(tmp_path) / "state"
    (tmp_path / "root").mkdir()
    versions = [bytes([digit]) * 300_000 for digit in range(2)]
    file.write_bytes(versions[0])
    stop = threading.Event()

    def replace() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            file.replace_bytes(versions[number % 2])

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        assert all(file.read_bytes() in versions for _ in range(300))
    finally:
        stop.set()
        writer.join()


def test_removing_a_file_a_tree_and_nothing(root):
    (root / "tree").make_directory()
    (root / "tree" / "file").write_bytes(b"x")
    (root / "file").write_bytes(b"x")
    for name in ("tree", "file", "absent"):
        (root / name).remove()
    assert root.children() == []


def test_a_writable_place_stays_as_it_was(root):
    root.check_writable()
    (root / "new" / "deep").check_writable()
    assert root.files() == []


def test_a_place_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SpecError, match=r"file/sub' cannot be written: .*choose a path"):
        (locate(tmp_path) / "file" / "sub").check_writable()


def test_trees_are_copied_between_file_systems(root, tmp_path):
    for name, data in (("a", b"1"), ("deep/er/b", b"2" * 3_000_000)):
        folder = (root / name).path.rpartition("/")[0]
        Location(root.filesystem, folder, "").make_directory()
        (root / name).write_bytes(data)
    target = locate(tmp_path / "copy")
    copy_tree(root, target)
    assert (tmp_path / "copy" / "a").read_bytes() == b"1"
    assert (tmp_path / "copy" / "deep" / "er" / "b").read_bytes() == b"2" * 3_000_000
    back = root / "back"
    copy_tree(target, back)
    assert (back / "deep" / "er" / "b").read_bytes() == b"2" * 3_000_000


def test_only_what_renames_in_one_step_says_so(tmp_path):
    assert local(tmp_path).renames_are_atomic()
    assert subtree(tmp_path).renames_are_atomic()
    assert not memory(tmp_path).renames_are_atomic()


def test_a_local_location_travels_to_other_processes(tmp_path):
    location = local(tmp_path)
    location.make_directory()
    (location / "a").write_bytes(b"x")
    assert (pickle.loads(pickle.dumps(location)) / "a").read_bytes() == b"x"


def test_relative_paths_lie_under_the_storage_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate("data/x").path == str(tmp_path / "data" / "x")
    monkeypatch.setenv("RAYMILL_STORAGE", "/srv/lake")
    assert locate("data/x").path == "/srv/lake/data/x"
    assert locate("/data/x").path == "/data/x"
    monkeypatch.setenv("RAYMILL_STORAGE", "lake")
    assert locate("data/x").path == str(tmp_path / "lake" / "data" / "x"), "workers have another directory"
    monkeypatch.setenv("RAYMILL_STORAGE", "~/lake")
    assert locate("data/x").path == os.path.expanduser("~/lake/data/x")
    monkeypatch.setenv("RAYMILL_STORAGE", "memory://lake/")
    assert locate("data/x").uri == "memory://lake/data/x"
    assert locate("/data/x").path == "/data/x"


def test_a_relative_path_in_a_job_without_storage_would_be_lost(monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(SpecError, match=r"'data/x' in a submitted job would be lost.*RAYMILL_STORAGE"):
        locate("data/x")
    assert locate("/data/x").path == "/data/x"


def test_file_uris_and_home():
    assert locate("file:///data/x").path == "/data/x"
    assert locate("~/x").path == os.path.expanduser("~/x")


def test_a_file_inside_a_package_is_found_without_importing_it():
    assert locate("package://hypothesis/core.py").exists()
    with pytest.raises(SpecError, match="Python package 'raymill_absent' is not installed"):
        locate("package://raymill_absent/x.csv")


def test_an_unknown_scheme_is_refused():
    with pytest.raises(SpecError, match="nosuch://"):
        locate("nosuch://bucket/x")


def test_the_storage_root_is_unset_when_empty(monkeypatch):
    monkeypatch.setenv("RAYMILL_STORAGE", "")
    assert storage.storage_root() is None


def test_options_of_a_uri_stay_at_its_end(monkeypatch):
    uri = "s3://lake/data?endpoint_override=127.0.0.1:9&scheme=http&region=x"
    assert (locate(uri) / "a" / "b").uri == uri.replace("data?", "data/a/b?")
    assert (locate(uri) / "a").path == "lake/data/a"
    monkeypatch.setenv("RAYMILL_STORAGE", uri)
    assert locate("flights").uri == uri.replace("data?", "data/flights?")


def test_alibabas_object_store_by_its_s3_interface(monkeypatch):
    monkeypatch.setenv("OSS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("OSS_ACCESS_KEY_SECRET", "secret")
    found = locate("oss://lake/data/flights?endpoint=oss-cn-hangzhou.aliyuncs.com")
    assert found.path == "lake/data/flights"
    assert found.filesystem == pafs.S3FileSystem(
        access_key="id", secret_key="secret", endpoint_override="oss-cn-hangzhou.aliyuncs.com",
        force_virtual_addressing=True,
    )  # fmt: skip
    monkeypatch.delenv("OSS_ENDPOINT", raising=False)
    with pytest.raises(SpecError, match="names no endpoint; set OSS_ENDPOINT"):
        locate("oss://lake/data")
