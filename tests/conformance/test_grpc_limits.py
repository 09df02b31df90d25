"""What a client of gRPC may not do to a replica: fill its metrics, its memory or its time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from test_grpc import infer, predict, refused

from raymill.serving import packed, rpc
from raymill.serving.plane import Plane
from raymill.serving.proto import oip_messages_pb2 as oip
from raymill.serving.proto import tfserving_messages_pb2 as tfs
from raymill.serving.tfserving_tensors import DT

Ask = Callable[[str, Any], Any]
COLUMNS = {"x": [1.0], "w": ["a"]}
NAMES = {"not ASCII": "mod\u00e8le", "long": "m" * 100_000, "invented": "tyo", "empty": ""}


@pytest.mark.parametrize("case", NAMES)
def test_only_what_is_served_is_a_label_of_the_metrics(ask: Ask, plane: Plane, case: str) -> None:
    """Ray's metrics take ASCII alone, and keep every value that a label ever had."""
    name = NAMES[case]
    for request in (
        predict(COLUMNS, name),
        infer(COLUMNS, name),
        infer(COLUMNS, "toy", name or "9"),
        ("ModelStatistics", oip.ModelStatisticsRequest(name=name or "tyo")),
        ("RepositoryModelLoad", oip.RepositoryModelRequest(model_name=name)),
        ("GetModelStatus", tfs.GetModelStatusRequest(model_spec=tfs.ModelSpec(name=name))),
    ):
        with pytest.raises(grpc.aio.AioRpcError):
            ask(*request)
    models, versions, _, _ = map(set, zip(*plane.metrics.sums, strict=True))
    assert models <= {"", *plane.models()}
    assert versions <= {"", "1"}


def filled(rows: int, dtype: str = "float32", model: str = "strict", **values: Any) -> tuple[str, Any]:
    """Write a request whose one sent value is to be repeated for `rows` rows."""
    name, request = predict({"x": [1.0], "w": ["a"]} | ({"n": [1]} if model == "strict" else {}), model)
    tensor = tfs.Tensor(dtype=DT[dtype], **values)
    tensor.tensor_shape.dim.add(size=rows)
    request.inputs["w" if dtype == "string" else "x"].CopyFrom(tensor)
    return name, request


ONE = np.ones(1, np.float32).tobytes()


@pytest.mark.parametrize("rows", [30_000_000, 400_000_000, 2**40, 2**62, 2**63 - 1])
def test_a_few_bytes_are_not_filled_up_to_gigabytes(ask: Ask, rows: int) -> None:
    for request in (
        filled(rows, float_val=[ONE]), filled(rows), filled(rows, "string", string_val=[b"a"]),
        filled(rows, "string"), filled(rows, "int64", int64_val=[b"\1"]),
    ):  # fmt: skip
        message = refused(ask, "INVALID_ARGUMENT", *request)
        assert "at most 22,369,621 are filled up" in message, message  # a third: the model has three inputs
        assert f"[{rows}]" in message


def test_a_shape_with_a_negative_size_is_named(ask: Ask) -> None:
    assert "has shape [-1]" in refused(ask, "INVALID_ARGUMENT", *filled(-1, float_val=[ONE]))


def test_an_output_is_asked_for_once(ask: Ask) -> None:
    name, request = infer(COLUMNS, "toy")
    for _ in range(20_000):
        request.outputs.add(name="prediction")
    assert "more than once" in refused(ask, "INVALID_ARGUMENT", name, request)
    name, request = predict(COLUMNS, "toy")
    request.output_filter.extend(["prediction"] * 2)
    assert "duplicate output" in refused(ask, "INVALID_ARGUMENT", name, request)


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_messages_are_bounded_packed_and_unpacked(plane: Plane, compression: grpc.Compression) -> None:
    async def sizes() -> dict[int, str]:
        server, port = rpc.server(plane, "127.0.0.1:0", max_bytes=1 << 20)
        await server.start()
        found = {}
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            for size in (1 << 19, 1 << 21):
                unknown_field = packed.pack(np.array([1000 << 3 | 2, size]))
                try:
                    await live(unknown_field + bytes(size), compression=compression, timeout=20)
                    found[size] = "OK"
                except grpc.aio.AioRpcError as error:
                    found[size] = error.code().name
        await server.stop(None)
        return found

    assert asyncio.run(sizes()) == {1 << 19: "OK", 1 << 21: "RESOURCE_EXHAUSTED"}


@pytest.mark.parametrize("text", ["\U0001f600", "\u6f22", "\n", "%", "m"])
@pytest.mark.parametrize("count", [100, 700, 3000])
def test_an_error_about_a_long_name_reaches_the_client(ask: Ask, text: str, count: int) -> None:
    """More than 8 KiB of headers, the text percent-encoded in one, are dropped: RESOURCE_EXHAUSTED."""
    message = refused(ask, "NOT_FOUND", "ModelMetadata", oip.ModelMetadataRequest(name=text * count))
    assert message.startswith("model '")


def test_the_end_of_an_error_is_cut_at_a_character() -> None:
    assert rpc._cut("m" * 3000) == "m" * 2048
    assert rpc._cut("\u6f22" * 3000) == "\u6f22" * 227
    assert rpc._cut("50%") == "50%"


@pytest.mark.parametrize(("timeout", "code"), [(0.05, "DEADLINE_EXCEEDED"), (None, "CANCELLED")])
def test_who_no_longer_waits_is_not_counted_as_answered(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, timeout: float | None, code: str
) -> None:
    counted: list[str] = []
    monkeypatch.setattr(plane, "observe", lambda *about: counted.append(about[3]))

    async def never(*_: Any, **__: Any) -> None:
        await asyncio.sleep(30)

    monkeypatch.setattr(plane, "infer", never)

    async def leave() -> None:
        server, port = rpc.server(plane, "127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            name, request = infer(COLUMNS, "toy")
            asked = channel.unary_unary(f"/inference.GRPCInferenceService/{name}")(
                request.SerializeToString(), timeout=timeout
            )
            await asyncio.sleep(0.2)
            asked.cancel()
            with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
                await asked
            await asyncio.sleep(0.2)
        await server.stop(None)

    asyncio.run(leave())
    assert counted == [code]
