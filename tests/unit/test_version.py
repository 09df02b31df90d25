"""Loading a version: every byte checked, golden rows proven, nothing written outside its folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import toy

from raymill.errors import Corrupt, InvalidInput, SpecError
from raymill.repo import Repository, Version, fetch, load_version, verify
from raymill.repo.manifest import GOLDEN_FILE, MANIFEST_FILE, FileEntry, Golden
from raymill.repo.version import check_golden


@pytest.fixture
def repository(tmp_path):
    return Repository(str(tmp_path / "models"))


@pytest.fixture
def version(repository, tmp_path):
    return toy.publish(repository, tmp_path / "staged")


@pytest.fixture
def local(tmp_path):
    folder = tmp_path / "local"
    folder.mkdir()
    return folder


def test_a_loaded_version_predicts(version, local):
    loaded = load_version(version, local)
    scores = loaded.predict_columns({"x": [3.0, None], "w": ["b", "a"]})
    assert (scores.tolist(), scores.dtype) == ([8.0, 21.0], np.float32)
    assert loaded.predict_columns({"x": [], "w": []}).shape == (0,)


def test_a_loaded_version_refuses_wrong_rows_as_the_encoder_does(version, local):
    with pytest.raises(InvalidInput, match="input 'x', row 1"):
        load_version(version, local).predict_columns({"x": [1.0, "no"], "w": ["a", "a"]})


def test_fetch_brings_every_file(version, local):
    assert fetch(version, local) == local
    assert {file.name for file in local.iterdir()} == {"model.json", "encoder.json", "golden.json"}


@pytest.mark.parametrize("name", ["model.json", "encoder.json", "golden.json"])
def test_one_changed_byte_refuses_to_load(version, local, name):
    file = version.location / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(Corrupt, match=rf"{name}' has SHA-256 \w{{12}}\.\.\., its manifest says \w{{12}}"):
        load_version(version, local)


@pytest.mark.parametrize("name", ["model.json", "encoder.json", "golden.json"])
def test_a_missing_file_refuses_to_load(version, local, name):
    (version.location / name).remove()
    with pytest.raises(Corrupt, match=f"{name}' is missing; the version is damaged"):
        load_version(version, local)


def test_a_file_cut_short_refuses_to_load(version, local):
    file = version.location / "model.json"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(Corrupt, match="SHA-256"):
        load_version(version, local)


@pytest.mark.parametrize("name", ["model.json", "encoder.json", "golden.json"])
def test_verifying_reads_every_byte_and_loads_nothing(version, name, monkeypatch):
    monkeypatch.setattr(toy.ToyFlavor, "load", None)
    verify(version)
    file = version.location / name
    data = file.read_bytes()
    file.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(Corrupt, match=rf"{name}' has SHA-256 \w{{12}}\.\.\., its manifest says \w{{12}}"):
        verify(version)
    file.write_bytes(data[:-1])
    with pytest.raises(Corrupt, match=rf"{name}' has {len(data) - 1} bytes, its manifest says {len(data)}"):
        verify(version)
    file.remove()
    with pytest.raises(Corrupt, match=rf"{name}' is missing"):
        verify(version)


def rewrite(version: Version, name: str, data: bytes) -> Version:
    """Change a file and its hash in the manifest, as one who means it would."""
    import hashlib

    (version.location / name).write_bytes(data)
    entries = tuple(
        entry.model_copy(update={"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)})
        if entry.path == name
        else entry
        for entry in version.manifest.files
    )
    changed = version.manifest.model_copy(update={"files": entries})
    (version.location / MANIFEST_FILE).write_bytes(changed.model_dump_json().encode())
    return Version(version.number, version.location, changed)


def test_a_wrong_golden_prediction_refuses_to_load(version, local):
    golden = json.loads((version.location / GOLDEN_FILE).read_bytes())
    golden["scores"][1] += 0.5
    version = rewrite(version, GOLDEN_FILE, json.dumps(golden).encode())
    with pytest.raises(Corrupt, match=r"predict otherwise here: largest difference 0\.5, allowed 1e-06"):
        load_version(version, local)


def test_another_model_under_the_same_golden_rows_refuses_to_load(version, local):
    version = rewrite(version, "model.json", b'{"weight": 2.01}')
    with pytest.raises(Corrupt, match="predict otherwise here"):
        load_version(version, local)


def test_a_model_that_predicts_nan_refuses_to_load(version, local):
    version = rewrite(version, "model.json", b'{"weight": NaN}')
    with pytest.raises(Corrupt, match="predict otherwise here"):
        load_version(version, local)


@pytest.mark.parametrize("name", ["model.json", "encoder.json", "golden.json"])
def test_garbage_with_the_right_hash_is_corrupt(version, local, name):
    with pytest.raises(Corrupt):
        load_version(rewrite(version, name, b"\x80\x05garbage"), local)


def test_golden_rows_that_the_encoder_refuses_are_corrupt(version, local):
    golden = json.loads((version.location / GOLDEN_FILE).read_bytes())
    golden["inputs"]["x"][0] = "text"
    with pytest.raises(Corrupt, match="golden rows"):
        load_version(rewrite(version, GOLDEN_FILE, json.dumps(golden).encode()), local)


def with_files(version: Version, *files: FileEntry) -> Version:
    return Version(version.number, version.location, version.manifest.model_copy(update={"files": files}))


@pytest.mark.parametrize("path", ["../escaped", "/tmp/raymill-escaped", "a/../../escaped", "..", ""])
def test_a_manifest_cannot_write_outside_the_folder(version, local, path):
    hostile = with_files(version, FileEntry(path=path, bytes=1, sha256="0"))
    with pytest.raises(Corrupt, match="leaves its folder"):
        fetch(hostile, local)


@pytest.mark.parametrize("name", ["encoder.json", "golden.json"])
def test_a_manifest_that_forgets_a_file_is_corrupt(version, local, name):
    rest = [entry for entry in version.manifest.files if entry.path != name]
    with pytest.raises(Corrupt, match=name):
        load_version(with_files(version, *rest), local)


def test_an_unknown_flavor_is_named(version, local):
    strange = version.manifest.model_copy(update={"flavor": "troch"})
    with pytest.raises(SpecError, match=r"flavor 'troch' is unknown; have: .*Did you mean 'torch'"):
        load_version(Version(1, version.location, strange), local)


def test_differences_within_the_tolerance_pass_and_shapes_must_agree(tmp_path):
    folder = toy.stage(tmp_path / "s")
    predictor = toy.ToyFlavor().load(folder, toy.encoder())
    golden = Golden.model_validate_json((folder / GOLDEN_FILE).read_bytes())
    near = golden.model_copy(update={"scores": [score + 0.05 for score in golden.scores], "tolerance": 0.1})
    (folder / GOLDEN_FILE).write_text(near.model_dump_json())
    check_golden(folder, toy.encoder(), predictor)
    fewer = golden.model_copy(update={"scores": golden.scores[:2]})
    (folder / GOLDEN_FILE).write_text(fewer.model_dump_json())
    with pytest.raises(Corrupt, match="largest difference inf"):
        check_golden(folder, toy.encoder(), predictor)


def test_no_golden_rows_prove_nothing_and_are_refused(tmp_path):
    folder = toy.stage(tmp_path / "s")
    empty = Golden(inputs={"x": [], "w": []}, scores=[], tolerance=1e-6)
    (folder / GOLDEN_FILE).write_text(empty.model_dump_json())
    with pytest.raises(Corrupt, match="golden rows"):
        check_golden(folder, toy.encoder(), toy.ToyFlavor().load(folder, toy.encoder()))
