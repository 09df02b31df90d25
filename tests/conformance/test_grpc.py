"""The gRPC protocols over a real server: right answers in every form, its own status for each bad request.

The bad columns are those of the HTTP protocols. Messages are ours here; clients that nobody here wrote ask in
test_grpc_clients.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
import toy
from test_protocols import BAD, COLUMNS, DATATYPES

from raymill.serving import GRPC_PROTOCOLS, packed
from raymill.serving.plane import Plane
from raymill.serving.proto import oip_messages_pb2 as oip
from raymill.serving.proto import tfserving_messages_pb2 as tfs
from raymill.serving.tfserving_tensors import DT, fill

Ask = Callable[[str, Any], Any]


def refused(ask: Ask, code: str, *request: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        ask(*request)
    assert error.value.code().name == code, error.value.details()
    message = str(error.value.details())
    assert message
    assert "Traceback" not in message
    return message


# How each protocol writes columns


def tf_tensor(values: list[Any]) -> Any:
    """Write a column as TensorFlow's make_tensor_proto does, the dtype that of the values."""
    first = values[0] if values else 0.0
    while isinstance(first, list):
        first = first[0]
    if isinstance(first, str):
        return tfs.Tensor(
            dtype=DT["string"], string_val=[v.encode() for v in values],
            tensor_shape=tfs.TensorShape(dim=[tfs.TensorShape.Dim(size=len(values))]),
        )  # fmt: skip
    tensor = tfs.Tensor()
    fill(tensor, np.array(values, {bool: "bool", int: "int64"}.get(type(first), "float64")))
    return tensor


def predict(columns: dict[str, list[Any]], model: str, wanted: str = "") -> tuple[str, Any]:
    spec = tfs.ModelSpec(name=model)
    if wanted.isdigit():
        spec.version.value = int(wanted)
    elif wanted:
        spec.version_label = wanted
    inputs = {name: tf_tensor(values) for name, values in columns.items()}
    return "Predict", tfs.PredictRequest(model_spec=spec, inputs=inputs)


CONTENTS = {"FP32": "fp32_contents", "INT8": "int_contents", "BYTES": "bytes_contents"}


def infer(columns: dict[str, list[Any]], model: str, wanted: str = "") -> tuple[str, Any]:
    request = oip.ModelInferRequest(model_name=model, model_version=wanted, id="7")
    for name, values in columns.items():
        flat = np.array(values, object).reshape(-1).tolist()
        if DATATYPES[name] == "BYTES":
            chunks = [str(value).encode() for value in flat]
        else:
            chunks = [packed.pack(np.array(flat, np.float32 if DATATYPES[name] == "FP32" else np.int64))]
        contents = oip.InferTensorContents(**{CONTENTS[DATATYPES[name]]: chunks})
        shape = np.array(values, object).shape
        request.inputs.add(name=name, datatype=DATATYPES[name], shape=shape, contents=contents)
    return "ModelInfer", request


def tf_scores(response: Any) -> list[float]:
    assert response.model_spec.version.value == 1
    return packed.numbers(response.outputs["prediction"].float_val, "float32").tolist()


def oip_scores(response: Any) -> list[float]:
    assert (response.model_version, response.id) == ("1", "7")
    return packed.numbers(response.outputs[0].contents.fp32_contents, "float32").tolist()


DIALECTS: dict[str, tuple[Any, Any]] = {
    "tfserving_grpc": (predict, tf_scores),
    "oip_grpc": (infer, oip_scores),
}
NAN = float("nan")


def test_every_protocol_is_asked() -> None:
    assert set(DIALECTS) | {"grpc_health"} == set(GRPC_PROTOCOLS)  # it takes no columns


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("wanted", ["", "1", "stable"])
def test_right_answers(ask: Ask, name: str, wanted: str) -> None:
    request, scores = DIALECTS[name]
    known = {"x": [1.0, 2.0, NAN], "w": ["a", "c", "zz"]}
    assert scores(ask(*request(known, "toy", wanted))) == [3.0, 4.0, 20.0]
    assert scores(ask(*request(toy.STRICT, "strict", wanted))) == [9.0, -261.0]
    assert scores(ask(*request(toy.VECTORS, "vector", wanted))) == [12.0, 1.0]


# What JSON can say and a typed tensor cannot is left out; NaN says null, which `strict` has no policy for.
UNTYPED = {
    "null", "null text", "object for a number", "fraction for an integer", "boolean for an integer",
    "boolean for a number", "number for text", "text for a number", "twentieth row",
}  # fmt: skip
WORDS = {
    "NaN": "nan is outside the range of float32|no null policy", "infinity": "outside the range",
    "number beyond its type": "outside the range of float32", "rank": r"has shape \[1, 2\]",
    "unequal lengths": "same number of rows", "no rows": "at least one row",
}  # fmt: skip


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("case", sorted(BAD.keys() - UNTYPED))
def test_bad_columns(ask: Ask, name: str, case: str) -> None:
    columns, words = BAD[case]
    with np.errstate(over="ignore"):
        message = refused(ask, "INVALID_ARGUMENT", *DIALECTS[name][0](columns, "strict"))
    assert re.search(WORDS.get(case, words), message), message


@pytest.mark.parametrize(
    "case", ["text for a number", "boolean for a number", "number for text", "fraction for an integer"]
)
def test_another_dtype(ask: Ask, case: str) -> None:
    refused(ask, "INVALID_ARGUMENT", *predict(BAD[case][0], "strict"))
    name, request = infer(COLUMNS, "strict")
    request.inputs[0].datatype = "FP64"
    assert "the model takes FP32" in refused(ask, "INVALID_ARGUMENT", name, request)


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize(
    ("model", "wanted", "words"),
    [("tyo", "", "Did you mean 'toy'"), ("toy", "9", "version 9"), ("toy", "canary", "label 'canary'")],
)
def test_what_is_not_there(ask: Ask, name: str, model: str, wanted: str, words: str) -> None:
    assert words in refused(ask, "NOT_FOUND", *DIALECTS[name][0](COLUMNS, model, wanted))


def test_bytes_that_are_no_message(ask: Ask) -> None:
    class Garbage:
        def SerializeToString(self) -> bytes:
            return b"\xff\xff\xff"

    for name in ("Predict", "ModelInfer"):
        assert f"no {name}Request" in refused(ask, "INVALID_ARGUMENT", name, Garbage())


# TensorFlow Serving


def test_tensor_content_repeated_values_and_one_by_one(ask: Ask) -> None:
    dims = tfs.TensorShape(dim=[tfs.TensorShape.Dim(size=2), tfs.TensorShape.Dim(size=3)])
    whole = np.array([[1, 2, 3], [0.5, 0, 0]], np.float32)
    forms = [
        tfs.Tensor(dtype=1, tensor_shape=dims, tensor_content=whole.tobytes()),
        tfs.Tensor(dtype=2, tensor_shape=dims, tensor_content=whole.astype(np.float64).tobytes()),
        tfs.Tensor(
            dtype=19, tensor_shape=dims, half_val=[packed.pack(whole.astype(np.float16).view(np.uint16))]
        ),
        tfs.Tensor(dtype=3, tensor_shape=dims, int_val=[packed.pack((whole * 2).astype(np.int64))]),
    ]
    one_by_one = b"".join(b"\x2d" + value.tobytes() for value in whole.reshape(-1))
    forms.append(
        tfs.Tensor.FromString(tfs.Tensor(dtype=1, tensor_shape=dims).SerializeToString() + one_by_one)
    )
    for tensor, factor in zip(forms, (1, 1, 1, 2, 1), strict=True):
        request = tfs.PredictRequest(model_spec=tfs.ModelSpec(name="vector"), inputs={"x": tensor})
        assert tf_scores(ask("Predict", request)) == [12.0 * factor, 1.0 * factor]
    same = tfs.Tensor(dtype=1, tensor_shape=dims, float_val=[np.float32(2).tobytes()])
    request = tfs.PredictRequest(model_spec=tfs.ModelSpec(name="vector"), inputs={"x": same})
    assert tf_scores(ask("Predict", request)) == [12.0, 12.0]
    wrong = tfs.Tensor(dtype=1, tensor_shape=dims, tensor_content=b"1234")
    request = tfs.PredictRequest(model_spec=tfs.ModelSpec(name="vector"), inputs={"x": wrong})
    refused(ask, "INVALID_ARGUMENT", "Predict", request)


def test_fewer_and_more_values_than_the_shape(ask: Ask) -> None:
    """As TensorFlow reads a TensorProto: zeros for none, the last one again, or the first ones."""

    def scores(values: list[float]) -> list[float]:
        dims = tfs.TensorShape(dim=[tfs.TensorShape.Dim(size=2), tfs.TensorShape.Dim(size=3)])
        x = tfs.Tensor(dtype=1, tensor_shape=dims, float_val=[np.array(values, np.float32).tobytes()])
        request = tfs.PredictRequest(model_spec=tfs.ModelSpec(name="vector"), inputs={"x": x})
        return tf_scores(ask("Predict", request))

    assert scores([]) == [0.0, 0.0]
    assert scores([1.0, 2.0]) == [10.0, 12.0]
    assert scores([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 100.0]) == [12.0, 30.0]
    name, request = predict({"x": [1.0, 1.0, 1.0], "w": ["b"]}, "toy")
    for texts, expected in (([], [2.0, 2.0, 2.0]), (["a", "b"], [3.0, 4.0, 4.0]), (["a"] * 5, [3.0] * 3)):
        w = tfs.Tensor(dtype=DT["string"], string_val=[text.encode() for text in texts])
        w.tensor_shape.dim.add(size=3)
        request.inputs["w"].CopyFrom(w)
        assert tf_scores(ask(name, request)) == expected


def test_metadata_and_status(ask: Ask) -> None:
    request = tfs.GetModelMetadataRequest(
        model_spec=tfs.ModelSpec(name="vector"), metadata_field=["signature_def"]
    )
    response = ask("GetModelMetadata", request)
    whole = response.metadata["signature_def"]
    assert whole.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    signature = tfs.SignatureDefMap.FromString(whole.value).signature_def["serving_default"]
    assert [dim.size for dim in signature.inputs["x"].tensor_shape.dim] == [-1, 3]
    assert signature.outputs["prediction"].dtype == DT["float32"]
    refused(
        ask,
        "INVALID_ARGUMENT",
        "GetModelMetadata",
        tfs.GetModelMetadataRequest(model_spec=tfs.ModelSpec(name="toy")),
    )
    status = ask("GetModelStatus", tfs.GetModelStatusRequest(model_spec=tfs.ModelSpec(name="toy")))
    assert [(found.version, found.state) for found in status.model_version_status] == [(1, 30)]
    refused(
        ask, "NOT_FOUND", "GetModelStatus", tfs.GetModelStatusRequest(model_spec=tfs.ModelSpec(name="tyo"))
    )


def test_signature_names_and_filters(ask: Ask) -> None:
    name, request = predict({"x": [1.0], "w": ["a"]}, "chance")
    request.model_spec.signature_name = "serving_default"
    assert set(ask(name, request).outputs) == {"probability", "prediction"}
    request.output_filter.append("probability")
    assert set(ask(name, request).outputs) == {"probability"}
    request.output_filter.append("nothing")
    assert "nothing" in refused(ask, "INVALID_ARGUMENT", name, request)
    request.model_spec.signature_name = "other"
    message = refused(ask, "FAILED_PRECONDITION", name, request)
    assert message == 'Serving signature key "other" not found.'


# Open Inference Protocol


def test_health_and_metadata(ask: Ask) -> None:
    assert ask("ServerLive", oip.ServerLiveRequest()).live
    assert ask("ServerReady", oip.ServerReadyRequest()).ready
    assert ask("ModelReady", oip.ModelReadyRequest(name="toy", version="stable")).ready
    for name, version in (("tyo", ""), ("toy", "9"), ("toy", "canary")):
        assert not ask("ModelReady", oip.ModelReadyRequest(name=name, version=version)).ready
    assert "statistics" in ask("ServerMetadata", oip.ServerMetadataRequest()).extensions
    metadata = ask("ModelMetadata", oip.ModelMetadataRequest(name="vector"))
    assert (metadata.name, list(metadata.versions)) == ("vector", ["1"])
    assert (metadata.inputs[0].datatype, list(metadata.inputs[0].shape)) == ("FP32", [-1, 3])


def raw(x: np.ndarray, w: list[str], **more: Any) -> Any:
    texts = b"".join(len(t.encode()).to_bytes(4, "little") + t.encode() for t in w)
    inputs = [
        oip.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=x.shape),
        oip.ModelInferRequest.InferInputTensor(name="w", datatype="BYTES", shape=[len(w)]),
    ]
    return oip.ModelInferRequest(
        model_name="toy", inputs=inputs, raw_input_contents=[x.tobytes(), texts], **more
    )


def test_raw_contents(ask: Ask) -> None:
    response = ask("ModelInfer", raw(np.array([[1], [2], [NAN]], np.float32), ["a", "é", "zz"]))
    assert np.frombuffer(response.raw_output_contents[0], np.float32).tolist() == [3.0, 4.0, 20.0]
    short = raw(np.array([1], np.float32), ["a"])
    del short.raw_input_contents[1]
    assert "give one for each" in refused(ask, "INVALID_ARGUMENT", "ModelInfer", short)
    both = raw(np.array([1], np.float32), ["a"])
    both.inputs[0].contents.fp32_contents.append(b"1234")
    assert "give one" in refused(ask, "INVALID_ARGUMENT", "ModelInfer", both)
    wrong = raw(np.array([1], np.float32), ["a"])
    wrong.outputs.add(name="y")
    before = ask("ModelStatistics", oip.ModelStatisticsRequest(name="toy")).model_stats[0].execution_count
    assert "no output 'y'" in refused(ask, "INVALID_ARGUMENT", "ModelInfer", wrong)
    after = ask("ModelStatistics", oip.ModelStatisticsRequest(name="toy")).model_stats[0].execution_count
    assert after == before


def test_what_would_give_another_answer_is_refused_by_name(ask: Ask) -> None:
    said = "is not served here"
    for name in ("classification", "shared_memory_region"):
        request = raw(np.array([1], np.float32), ["a"])
        request.outputs.add(name="prediction").parameters[name].string_param = "x"
        assert f"output 'prediction': parameter {name!r} {said}" in refused(
            ask, "INVALID_ARGUMENT", "ModelInfer", request
        )
    for left in (0, 1):
        request = raw(np.array([1], np.float32), ["a"])
        del request.raw_input_contents[left:]
        request.inputs[left].parameters["shared_memory_region"].string_param = "x"
        assert f"parameter 'shared_memory_region' {said}" in refused(
            ask, "INVALID_ARGUMENT", "ModelInfer", request
        )
    for name in ("config", "file:1/model.onnx"):
        load = oip.RepositoryModelRequest(model_name="toy")
        load.parameters[name].bytes_param = b"{}"
        assert f"parameter {name!r} {said}" in refused(ask, "INVALID_ARGUMENT", "RepositoryModelLoad", load)
    assert not ask("ModelReady", oip.ModelReadyRequest(name="toy", version="\u00b2")).ready


def test_numbers_one_by_one(ask: Ask) -> None:
    contents = oip.InferTensorContents.FromString(
        b"".join(b"\x35" + np.float32(v).tobytes() for v in (1, 2, 3))
    )
    request = oip.ModelInferRequest(model_name="vector", id="7")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 3], contents=contents)
    assert oip_scores(ask("ModelInfer", request)) == [12.0]


def test_repository_and_statistics(ask: Ask) -> None:
    before = ask("ModelStatistics", oip.ModelStatisticsRequest(name="kinds")).model_stats[0]
    columns = {"x": [1.0, 2.0], "w": ["a", "b"]}
    ask(*infer(columns, "kinds"))
    after = ask("ModelStatistics", oip.ModelStatisticsRequest(name="kinds", version="1")).model_stats[0]
    assert after.inference_count == before.inference_count + 2
    for phase in ("success", "compute_output"):
        new, old = (getattr(found.inference_stats, phase).count for found in (after, before))
        assert new == old + 1
    for request in (
        oip.RepositoryModelRequest(model_name="kinds"),
        oip.RepositoryModelRequest(repository_or_model_name="kinds"),
    ):
        ask("RepositoryModelUnload", request)
        assert "was unloaded" in refused(ask, "NOT_FOUND", *infer(columns, "kinds"))
        index = {
            found.name: found.state for found in ask("RepositoryIndex", oip.RepositoryIndexRequest()).models
        }
        assert (index["kinds"], index["toy"]) == ("UNAVAILABLE", "READY")
        ready = ask("RepositoryIndex", oip.RepositoryIndexRequest(ready=True)).models
        assert "kinds" not in {found.name for found in ready}
        assert ask("RepositoryModelLoad", request).is_loaded
        ask(*infer(columns, "kinds"))


def test_a_reload_replaces_the_models(ask: Ask, plane: Plane) -> None:
    def reload(*names: str, versions: tuple[int, ...] = ()) -> Any:
        configs = [tfs.ModelConfig(name=name) for name in names]
        for config in configs:
            if versions:
                config.model_version_policy.specific.versions.extend(versions)
        listed = tfs.ModelServerConfig(model_config_list=tfs.ModelConfigList(config=configs))
        return "HandleReloadConfigRequest", tfs.ReloadConfigRequest(config=listed)

    everything = plane.models()
    refused(ask, "NOT_FOUND", *reload("toy", "nothing"))
    refused(ask, "INVALID_ARGUMENT", *reload("toy", "toy"))
    assert plane.models() == everything
    assert ask(*reload("toy", versions=(1,))).status.error_code == 0
    assert plane.models() == ["toy"]
    refused(ask, "NOT_FOUND", *predict(toy.STRICT, "strict"))
    ask(*reload(*everything))
    assert plane.models() == everything
    assert tf_scores(ask(*predict(toy.STRICT, "strict"))) == [9.0, -261.0]


def test_requests_are_counted_by_model_version_protocol_and_code(ask: Ask, plane: Plane) -> None:
    ask(*infer(toy.VECTORS, "vector"))
    refused(ask, "NOT_FOUND", *predict(COLUMNS, "tyo"))
    assert plane.metrics.sums["vector", "1", "oip_grpc", "OK"].count > 0
    assert plane.metrics.sums["", "", "tfserving_grpc", "NOT_FOUND"].count > 0
