"""Exported programs: what loads predicts the same, and what would unpickle or run text never loads."""

from __future__ import annotations

import fcntl
import io
import json
import pickle
import re
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raymill.errors import Corrupt
from raymill.features import Encoder, FittedColumn
from raymill.flavors.torch_flavor import PROGRAM_FILE, TorchConfig, TorchFlavor
from raymill.flavors.torch_learner import TorchLearner

ENCODER = Encoder(
    columns=(
        FittedColumn(
            name="x", kind="numeric", dtype="float32", nulls="mean", null_count=1, mean=2.0, std=3.0
        ),
        FittedColumn(
            name="w", kind="categorical", dtype="string", nulls="unknown", null_count=0, vocabulary=("a", "b")
        ),
    ),
    target="y",
    task="binary",
)
COLUMNS = {"x": [1.0, None, 1e30, -5.0], "w": ["a", "b", None, "never seen"]}
MODEL_JSON = "model/models/model.json"


@pytest.fixture(scope="module")
def learner():
    return TorchLearner(ENCODER, TorchConfig(hidden=(4,), dropout=0.5), seed=0)


@pytest.fixture(scope="module")
def published(learner, tmp_path_factory, worker_id) -> Path:
    """A saved program; exporting takes seconds, so test processes share one."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "published-program"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / PROGRAM_FILE).exists():
            TorchFlavor().save(learner, folder)
    return folder


@pytest.fixture
def rewrite(published, tmp_path):
    """Return a function that changes the archive: files to bytes (None removes), and the graph's JSON."""

    def rewrite(files: dict[str, bytes | None] | None = None, graph: Any = None) -> Path:
        with zipfile.ZipFile(published / PROGRAM_FILE) as archive:
            content: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
        if graph:
            document = json.loads(content[MODEL_JSON] or b"")
            graph(document)
            content[MODEL_JSON] = json.dumps(document).encode()
        content |= files or {}
        with zipfile.ZipFile(tmp_path / PROGRAM_FILE, "w") as archive:
            for name, data in content.items():
                if data is not None:
                    archive.writestr(name, data)
        return tmp_path

    return rewrite


def refuse(folder: Path) -> str:
    with pytest.raises(Corrupt) as caught:
        TorchFlavor().load(folder, ENCODER)
    return str(caught.value)


class Trap:
    """Unpickling it leaves a file behind."""

    path = "raymill-was-here"

    def __reduce__(self):
        return (open, (Trap.path, "w"))


@pytest.fixture(autouse=True)
def _nothing_ran(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / Trap.path).exists(), "code from the archive was run"


def pickled(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def test_the_saved_program_predicts_as_the_learner_does(learner, published):
    features = ENCODER.encode_columns(COLUMNS)
    loaded = TorchFlavor().load(published, ENCODER)
    np.testing.assert_allclose(loaded.predict(features), learner.predict(features), atol=1e-6)
    assert np.isfinite(loaded.predict(features)).all()


def test_predicting_drops_nothing_and_training_goes_on_dropping(learner):
    features = ENCODER.encode_columns(COLUMNS)
    np.testing.assert_array_equal(learner.predict(features), learner.predict(features))
    assert learner.network.training


def test_the_rewriting_of_these_tests_alone_is_harmless(rewrite):
    folder = rewrite(graph=lambda document: None)
    assert TorchFlavor().load(folder, ENCODER).predict(ENCODER.encode_columns(COLUMNS)).shape == (4,)


def test_the_archive_holds_no_pickle(published):
    with zipfile.ZipFile(published / PROGRAM_FILE) as archive:
        assert archive.read("model/data/sample_inputs/model.pt") == b""
        for name in archive.namelist():
            if not name.endswith(".json"):
                assert b"\x80\x02" not in archive.read(name)[:2], name


@pytest.mark.parametrize(
    "name",
    [
        "model/data/sample_inputs/model.pt",
        "model/data/constants/custom_obj_0",
        "model/data/constants/opaque_obj_0",
        "model/data/weights/model.pt",
        "model/data/constants/model.pt",
        "model/data/weights/evil.pkl",
        "model/models/other.json",
        "model/extra/notes.txt",
        "model/data/aotinductor/model/x.so",
        "other/models/model.json",
        "serialized_state_dict.pt",
        "model/../../x",
    ],
)
def test_a_file_that_has_no_place_is_refused(rewrite, name):
    assert PROGRAM_FILE in refuse(rewrite({name: pickled(Trap())}))


def test_a_doubled_file_is_refused(rewrite):
    """Readers differ in which of the two they take."""
    folder = rewrite()
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(folder / PROGRAM_FILE, "a") as archive,
    ):
        archive.writestr(MODEL_JSON, b"{}")
    assert "doubled or stray" in refuse(folder)


WEIGHTS_JSON = "model/data/weights/model_weights_config.json"
CONSTANTS_JSON = "model/data/constants/model_constants_config.json"


def payload(path_name: str, use_pickle: bool) -> bytes:
    entry = {"path_name": path_name, "is_param": False, "use_pickle": use_pickle, "tensor_meta": None}
    return json.dumps({"config": {"x": entry}}).encode()


def test_a_pickled_weight_is_refused(rewrite):
    folder = rewrite(
        {WEIGHTS_JSON: payload("weight_0", True), "model/data/weights/weight_0": pickled(Trap())}
    )
    assert "a pickled payload; refused" in refuse(folder)


@pytest.mark.parametrize("name", ["opaque_obj_0", "custom_obj_0", "../../etc/passwd"])
def test_a_constant_whose_name_alone_has_it_unpickled_is_refused(rewrite, name):
    """The loader ignores `use_pickle` for these."""
    folder = rewrite(
        {CONSTANTS_JSON: payload(name, False), "model/data/constants/tensor_0": pickle.dumps(Trap())}
    )
    assert "path_name" in refuse(folder)


RUNS = f"__import__('builtins').open('{Trap.path}', 'w')"


def set_guard(text):
    return lambda document: document["guards_code"].append(text)


def set_target(text):
    return lambda document: document["graph_module"]["graph"]["nodes"][0].update(target=text)


def set_in_spec(spec):
    def change(document):
        signature = document["graph_module"]["module_call_graph"][0]["signature"]
        signature["in_spec"] = json.dumps([1, spec])

    return change


def set_expression(text):
    def change(node):
        if isinstance(node, dict):
            if "expr_str" in node:
                node["expr_str"] = text
            for value in node.values():
                change(value)
        elif isinstance(node, list):
            for value in node:
                change(value)

    return change


@pytest.mark.parametrize(
    "text",
    [
        RUNS,
        f"{RUNS} is None or L['numeric_NF'].size()[0] == 1",
        "L['numeric_NF'].size()[0] == L['numeric_NF'].__class__",
        "L['a\\'b'].size()[0] == 1",
        "L['numeric_NF'].size()[0] == 1\nimport os",
    ],
)
def test_a_guard_that_is_more_than_a_comparison_of_sizes_is_refused(rewrite, text):
    assert "guards_code" in refuse(rewrite(graph=set_guard(text)))


@pytest.mark.parametrize(
    "text",
    [
        RUNS,
        "Symbol('s1').func",
        "Integer(1).__class__",
        "lambda: 1",
        "Symbol('os')",
        "9**9**9",
        "Pow(9, 9)",
        "[1]",
    ],
)
def test_an_expression_that_is_more_than_arithmetic_is_refused(rewrite, text):
    assert "expr_str" in refuse(rewrite(graph=set_expression(text)))


def test_refusing_takes_no_longer_for_a_long_expression(rewrite):
    folder = rewrite(graph=set_expression("1" * 5000 + "x"))
    started = time.monotonic()
    assert "expr_str" in refuse(folder)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "text",
    [
        "torch.serialization.os.system",
        "torch.load",
        "torch.ops.aten.from_file.default",
        "torch.ops.load_library",
        "torch.ops.aten.add.Tensor.__init__",
        "_operator.attrgetter",
        "math.sqrt",
        "#custom:op",
    ],
)
def test_a_node_that_calls_anything_but_a_tensor_operation_is_refused(rewrite, text):
    assert "target" in refuse(rewrite(graph=set_target(text)))


def test_a_structure_that_imports_what_it_names_is_refused(rewrite):
    context = json.dumps({"__enum__": True, "fqn": "this:x", "name": "x"})
    spec = {"type": "builtins.dict", "context": context, "children_spec": []}
    assert "in_spec" in refuse(rewrite(graph=set_in_spec(spec)))
    spec = {"type": "collections.namedtuple", "context": "null", "children_spec": []}
    assert "in_spec" in refuse(rewrite(graph=set_in_spec(spec)))


def test_names_that_would_be_written_into_source_are_refused(rewrite):
    def change(document):
        signature = document["graph_module"]["module_call_graph"][0]["signature"]
        signature["forward_arg_names"] = [f"x={RUNS}", "y"]

    assert "forward_arg_names" in refuse(rewrite(graph=change))

    def rename(document):
        document["graph_module"]["graph"]["inputs"][0]["as_tensor"]["name"] = f"x={RUNS}"

    assert "name" in refuse(rewrite(graph=rename))


@pytest.mark.parametrize("data", [b"", b"garbage", b"PK\x03\x04broken", pickle.dumps({"a": 1})])
def test_garbage_is_no_program(tmp_path, data):
    (tmp_path / PROGRAM_FILE).write_bytes(data)
    assert "is not an exported program" in refuse(tmp_path)


def test_no_file_is_no_program(tmp_path):
    assert re.search(r"model\.pt2 is not an exported program: .*No such file", refuse(tmp_path))


@pytest.mark.parametrize(
    "files",
    [
        {MODEL_JSON: b"{}"},
        {MODEL_JSON: b"\xff"},
        {MODEL_JSON: b"[" * 100_000},
        {MODEL_JSON: None},
        {WEIGHTS_JSON: b'{"config": {}}'},
        {"model/data/weights/weight_0": b"\0" * 8},
        {"model/archive_version": b"x"},
    ],
    ids=["empty graph", "no text", "too deep", "no graph", "no weights", "short weight", "version"],
)
def test_a_damaged_archive_is_corrupt_and_never_another_error(rewrite, files):
    assert "is not an exported program" in refuse(rewrite(files))
