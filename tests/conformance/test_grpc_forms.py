"""What clients of other makes send: messages made from reflection, numbers in each form of protobuf."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import toy
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from raymill.features import Encoder, FittedColumn
from raymill.repo import Repository
from raymill.serving import GRPC_PROTOCOLS, packed, rpc
from raymill.serving.plane import Plane
from raymill.serving.spec import ModelSpec

METHODS = {
    method.name: method for name in GRPC_PROTOCOLS for method in rpc.methods(GRPC_PROTOCOLS.load(name))
}

# Reflection: a server in another process, as any client meets it

INFER = {
    "model_name": "strict",
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [1], "contents": {"fp32_contents": [1.0]}},
        {"name": "n", "datatype": "INT8", "shape": [1], "contents": {"int_contents": [3]}},
        {"name": "w", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": ["YQ=="]}},
    ],
}
PREDICT = {
    "model_spec": {"name": "vector"},
    "inputs": {
        "x": {
            "dtype": "DT_FLOAT",
            "tensor_shape": {"dim": [{"size": 1}, {"size": 3}]},
            "float_val": [1, 2, 3],
        }
    },
}
REGRESS = {
    "model_spec": {"name": "toy"},
    "input": {
        "example_list": {"examples": [{"features": {"feature": {"x": {"float_list": {"value": [1]}}}}}]}
    },
}
SERVING = "tensorflow.serving.PredictionService"


class Reflected:
    """A client that knows nothing but what the server tells, as grpcurl does."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel, self.database = channel, ProtoReflectionDescriptorDatabase(channel)
        self.pool = DescriptorPool(self.database)

    def __call__(self, service: str, method: str, request: dict[str, Any]) -> dict[str, Any]:
        found = self.pool.FindServiceByName(service).FindMethodByName(method)
        message = json_format.ParseDict(request, message_factory.GetMessageClass(found.input_type)())
        answer = self._channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(found.output_type).FromString,
        )(message, timeout=20)
        return json_format.MessageToDict(answer, preserving_proto_field_name=True, descriptor_pool=self.pool)


@pytest.fixture(scope="module")
def reflected(address: str) -> Iterator[Reflected]:
    with grpc.insecure_channel(address) as channel:
        yield Reflected(channel)


def test_a_client_made_from_reflection_asks_in_the_public_messages(reflected: Reflected) -> None:
    services = set(reflected.database.get_services())
    assert services >= {method.containing_service.full_name for method in METHODS.values()}
    for name in (
        "inference.ModelInferRequest",
        "tensorflow.serving.PredictRequest",
        "tensorflow.TensorProto",
    ):
        assert reflected.pool.FindMessageTypeByName(name).full_name == name
    answer = reflected("inference.GRPCInferenceService", "ModelInfer", INFER)
    assert answer["outputs"][0]["contents"] == {"fp32_contents": [9.0]}
    answer = reflected(SERVING, "Predict", PREDICT)
    assert answer["outputs"]["prediction"]["float_val"] == [12.0]
    assert answer["outputs"]["prediction"]["dtype"] == "DT_FLOAT"
    answer = reflected(SERVING, "Regress", REGRESS)
    assert answer["result"]["regressions"] == [{"value": 2.0}]
    answer = reflected("tensorflow.serving.ModelService", "GetModelStatus", {"model_spec": {"name": "toy"}})
    assert answer["model_version_status"][0]["state"] == "AVAILABLE"
    answer = reflected(
        SERVING, "GetModelMetadata", {"model_spec": {"name": "vector"}, "metadata_field": ["signature_def"]}
    )
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert reflected("grpc.health.v1.Health", "Check", {})["status"] == "SERVING"


def test_mlservers_clients_find_the_repository(reflected: Reflected) -> None:
    service = "inference.model_repository.ModelRepositoryService"

    def states() -> dict[str, str]:
        return {
            found["name"]: found["state"] for found in reflected(service, "RepositoryIndex", {})["models"]
        }

    reflected(service, "RepositoryModelUnload", {"model_name": "chance"})
    assert states() | {"chance": "UNAVAILABLE", "toy": "READY"} == states()
    reflected(service, "RepositoryModelLoad", {"model_name": "chance"})
    assert states()["chance"] == "READY"


# Numbers, written byte by byte

COLUMNS = {"f": "float32", "i": "int32", "u": "uint64", "v": "int64"}


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what answers the bytes of a request to a model that sums up a row of COLUMNS."""
    folder = tmp_path_factory.mktemp("forms")
    columns = [
        FittedColumn(name=name, kind="numeric", dtype=dtype, nulls="error", null_count=0)
        for name, dtype in COLUMNS.items()
    ]
    fitted = Encoder(columns=tuple(columns), target="y", task="regression")
    staged = toy.stage(folder / "staged", 1.0, fitted, {name: [1] for name in COLUMNS})
    repository = Repository(str(folder / "models"))
    repository.publish("sums", staged, toy.manifest("sums", 1.0, fitted), lambda _: None)
    plane = Plane(repository, {"sums": ModelSpec(serve=("latest",))})
    plane.load()
    handlers = {
        name: rpc.handler(GRPC_PROTOCOLS.load(protocol)(plane), plane, METHODS[name])
        for name, protocol in (("ModelInfer", "oip_grpc"), ("Predict", "tfserving_grpc"))
    }

    class Context:
        def set_code(self, code: Any) -> None:
            self.code = code

        def set_details(self, text: str) -> None:
            raise AssertionError(f"{self.code}: {text}")

    return lambda name, request: asyncio.run(handlers[name](request, Context()))


def varint(*values: int) -> bytes:
    return packed.pack(np.array(values, np.uint64))


def field(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2, len(payload)) + payload


def one(number: int, value: int | float) -> bytes:
    """Write a number of a list that is not packed."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + np.float32(value).tobytes()
    return varint(number << 3, value)


def infer(rows: int, **lists: bytes) -> bytes:
    names = {"float32": b"FP32", "int32": b"INT32", "uint64": b"UINT64", "int64": b"INT64"}
    tensors = [
        field(1, name.encode()) + field(2, names[COLUMNS[name]]) + field(3, varint(rows)) + field(5, content)
        for name, content in lists.items()
    ]
    return field(1, b"sums") + b"".join(field(5, tensor) for tensor in tensors)


def predict(rows: int, **lists: bytes) -> bytes:
    dtypes = {"float32": 1, "int32": 3, "uint64": 23, "int64": 9}
    shape = field(2, field(2, varint(1 << 3, rows)))
    tensors = [
        field(1, name.encode()) + field(2, varint(1 << 3, dtypes[COLUMNS[name]]) + shape + content)
        for name, content in lists.items()
    ]
    return field(1, field(1, b"sums")) + b"".join(field(2, tensor) for tensor in tensors)


NUMBERS = {
    "ModelInfer": (infer, {"f": 6, "i": 2, "u": 5, "v": 3}),
    "Predict": (predict, {"f": 5, "i": 7, "u": 17, "v": 10}),
}
ZEROS = dict.fromkeys(COLUMNS, b"")


def lists(name: str, **given: list[bytes | int | float]) -> bytes:
    """Write a request of three rows: bytes are packed pieces, numbers come one by one; the rest is zeros."""
    write, numbers = NUMBERS[name]
    zeros = {column: field(number, bytes(12 if column == "f" else 3)) for column, number in numbers.items()}
    mixed = {
        column: b"".join(
            field(numbers[column], part) if isinstance(part, bytes) else one(numbers[column], part)
            for part in parts
        )
        for column, parts in given.items()
    }
    return write(3, **(zeros | mixed))


def scores(name: str, answer: Any) -> list[float]:
    if name == "ModelInfer":
        chunks = answer.outputs[0].contents.fp32_contents
    else:
        chunks = answer.outputs["prediction"].float_val
    return packed.numbers(chunks, "float32").tolist()


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_packed_and_one_by_one_are_one_list_in_their_order(ask: Any, name: str) -> None:
    two = np.array([1, 2], "<f4").tobytes()
    for f in ([two, 3.0], [1.0, 2.0, 3.0], [1.0, two[4:], 3.0], [1.0, np.array([2, 3], "<f4").tobytes()]):
        assert scores(name, ask(name, lists(name, f=f))) == [1.0, 2.0, 3.0]
    for v in ([7, varint(300, 9)], [varint(7), 300, varint(9)], [7, 300, 9]):
        assert scores(name, ask(name, lists(name, v=v))) == [7.0, 300.0, 9.0]


@pytest.mark.parametrize("name", NUMBERS)
def test_large_unsigned_numbers_one_by_one_stay_positive(ask: Any, name: str) -> None:
    u = [2**63, 2**64 - 1, 1]
    expected = [2.0**63, 2.0**64, 1.0]
    assert scores(name, ask(name, lists(name, u=u))) == expected
    assert scores(name, ask(name, lists(name, u=[varint(*u)]))) == expected


@pytest.mark.parametrize("name", NUMBERS)
def test_a_negative_number_may_have_five_bytes(ask: Any, name: str) -> None:
    for i in ([varint(2**32 - 1, 2**64 - 1, 5)], [2**32 - 1, 2**64 - 1, 5]):
        assert scores(name, ask(name, lists(name, i=i))) == [-1.0, -1.0, 5.0]
