"""ONNX graphs: the weights come back from the file; what names other files or operators is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from raymill.errors import Corrupt, SpecError
from raymill.features import Encoder, FittedColumn
from raymill.flavors.onnx_flavor import OnnxFlavor
from raymill.flavors.onnx_graph import GRAPH_FILE
from raymill.flavors.torch_flavor import TorchConfig, TorchFlavor
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


@pytest.fixture(scope="module")
def learner() -> TorchLearner:
    return TorchLearner(ENCODER, TorchConfig(hidden=(4,)), seed=0)


@pytest.fixture(scope="module")
def saved(learner: TorchLearner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    OnnxFlavor().save(learner, folder)
    return folder


def test_it_predicts_as_torch_does(saved: Path, learner: TorchLearner) -> None:
    features = ENCODER.encode_columns(COLUMNS)
    found = OnnxFlavor().load(saved, ENCODER).predict(features)
    np.testing.assert_allclose(found, learner.predict(features), atol=1e-6)


def test_weights_come_back_under_the_learners_names(saved: Path, learner: TorchLearner) -> None:
    found, expected = OnnxFlavor().weights(saved), learner.weights()
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_the_file_names_nothing_of_this_machine(saved: Path) -> None:
    data = (saved / GRAPH_FILE).read_bytes()
    assert b".py" not in data
    assert str(Path(__file__).parents[2]).encode() not in data


@pytest.fixture
def program(learner: TorchLearner, tmp_path: Path) -> Path:
    TorchFlavor().save(learner, tmp_path)
    return tmp_path


def nothing() -> None:
    pass


def differs() -> None:
    raise Corrupt("golden rows predict otherwise here")


def test_a_published_program_is_served_by_the_graph_beside_it(
    program: Path, learner: TorchLearner, caplog: pytest.LogCaptureFixture
) -> None:
    flavor, features = TorchFlavor(), ENCODER.encode_columns(COLUMNS)
    by_program = flavor.load(program, ENCODER)
    flavor.prepare_serving(learner, program, nothing)
    by_graph = flavor.load(program, ENCODER)
    assert type(by_graph) is not type(by_program)
    np.testing.assert_allclose(by_graph.predict(features), by_program.predict(features), atol=1e-6)
    assert flavor.resident_bytes({"model.pt2": 3, GRAPH_FILE: 2, "encoder.json": 1}) == 3
    assert "exported program" not in caplog.text


def test_a_graph_that_disagrees_does_not_stay(
    program: Path, learner: TorchLearner, caplog: pytest.LogCaptureFixture
) -> None:
    TorchFlavor().prepare_serving(learner, program, differs)
    assert not (program / GRAPH_FILE).exists()
    assert "golden rows predict otherwise" in caplog.text
    strict = TorchLearner(ENCODER, TorchConfig(hidden=(4,), onnx=True), seed=0)
    with pytest.raises(SpecError, match="without `onnx: true`"):
        TorchFlavor().prepare_serving(strict, program, differs)
    assert not (program / GRAPH_FILE).exists()


def test_who_wants_no_graph_gets_none(program: Path) -> None:
    plain = TorchLearner(ENCODER, TorchConfig(hidden=(4,), onnx=False), seed=0)
    TorchFlavor().prepare_serving(plain, program, nothing)
    assert not (program / GRAPH_FILE).exists()


def test_a_graph_alone_cannot_go_without_the_graph() -> None:
    OnnxFlavor().check(TorchConfig())
    with pytest.raises(SpecError, match="flavor: torch"):
        OnnxFlavor().check(TorchConfig(onnx=False))


def elsewhere(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="passwd")


def custom(model: Any) -> None:
    model.opset_import.add(domain="com.example", version=1)
    model.graph.node[0].domain = "com.example"


def nested(model: Any) -> None:
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node[-1].attribute.append(helper.make_attribute("body", inner))


@pytest.mark.parametrize("change", [elsewhere, custom, nested])
def test_what_is_more_than_tensor_arithmetic_is_refused(
    saved: Path, tmp_path: Path, change: Callable[[Any], None]
) -> None:
    model = onnx.load(str(saved / GRAPH_FILE))
    change(model)
    (tmp_path / GRAPH_FILE).write_bytes(model.SerializeToString())
    with pytest.raises(Corrupt, match=GRAPH_FILE):
        OnnxFlavor().load(tmp_path, ENCODER)
