"""From raw data to a served prediction, through `ray job submit`, on all the real flights."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, Cluster, closing_line
from grpc_health.v1 import health_pb2, health_pb2_grpc

from raymill.serving.proto import oip_messages_pb2 as pb

NUMPY = {"INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP32": "<f4", "FP64": "<f8"}
SMALL = ["--set", "flavors.torch.epochs=1", "--set", "flavors.xgboost.rounds=20"]


@pytest.fixture(scope="module")
def trained(cluster: Cluster, flights: Path) -> dict[str, dict[str, Any]]:
    results = {}
    for flavor, model in (("torch", "flights"), ("xgboost", "flights-xgboost")):
        code, output = cluster.submit(
            "jobs/train.py", "--config", "examples/flights/train.yaml", *SMALL,
            "--set", f"flavor={flavor}", "--set", f"model={model}",
        )  # fmt: skip
        assert code == 0, output
        assert "Trying to restart" not in output, output  # what xgboost-ray says where an actor failed
        results[flavor] = closing_line(output)
    return results


@pytest.fixture(scope="module")
def served(cluster: Cluster, trained: dict[str, dict[str, Any]]) -> str:
    code, output = cluster.submit(
        "jobs/serve.py",
        "--config",
        "examples/flights/serve.yaml",
        "--set",
        f"port={cluster.serve_port}",
        "--set",
        f"grpc_port={cluster.grpc_port}",
    )
    assert code == 0, output
    return str(closing_line(output)["url"])


def call(url: str, body: Any = None) -> tuple[int, Any]:
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_prepare_keeps_every_row_and_leaks_nothing(flights: Path) -> None:
    card = json.loads((flights / "_card.json").read_text())
    assert card["counts"] == {"read": 336_776, "no_outcome": 9_430, "outside": 0}
    assert {name: split["rows"] for name, split in card["splits"].items()} == {
        "train": 244_737, "validation": 28_618, "test": 53_991,
    }  # fmt: skip
    columns = set(card["splits"]["train"]["columns"])
    assert not columns & {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"}
    assert card["splits"]["train"]["columns"]["plane_year"]["nulls"] > 0
    footer = pq.read_metadata(flights / "train" / "part-00000.parquet")
    assert footer.row_group(0).num_rows == 8192
    assert footer.row_group(0).column(0).compression == "ZSTD"


def test_preparing_again_changes_nothing(cluster: Cluster, flights: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in flights.rglob("*.parquet")}
    code, output = cluster.submit("jobs/prepare.py", "--config", "examples/flights/prepare.yaml")
    assert code == 0, output
    assert closing_line(output)["unchanged"] is True
    assert {file: file.stat().st_mtime_ns for file in flights.rglob("*.parquet")} == before


@pytest.mark.parametrize(("flavor", "floor"), [("torch", 0.66), ("xgboost", 0.66)])
def test_training_learns_and_says_what_it_did(
    trained: dict[str, dict[str, Any]], flavor: str, floor: float
) -> None:
    result = trained[flavor]
    assert result["metrics"]["test"]["auc"] > floor
    passes = 1 if flavor == "torch" else 20
    assert result["rows_seen"] == 244_737 * passes
    manifest = json.loads((Path(result["path"]) / "manifest.json").read_text())
    assert set(manifest["lineage"]["snapshots"]) == {"train", "validation", "test"}
    assert manifest["lineage"]["code"]["sha256"]
    assert manifest["lineage"]["spec"]["seed"] == 13
    assert {entry["path"] for entry in manifest["files"]} >= {"encoder.json", "golden.json"}


@pytest.mark.parametrize("model", ["flights", "flights-xgboost"])
def test_served_answers_equal_the_published_golden_rows(
    served: str, trained: dict[str, dict[str, Any]], model: str
) -> None:
    result = next(found for found in trained.values() if found["model"] == model)
    golden = json.loads((Path(result["path"]) / "golden.json").read_text())
    status, by_column = call(f"{served}/v1/models/{model}:predict", {"inputs": golden["inputs"]})
    assert status == 200
    assert by_column["outputs"] == pytest.approx(golden["scores"], abs=1e-5)
    names, columns = golden["inputs"].keys(), golden["inputs"].values()
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    status, by_row = call(f"{served}/v1/models/{model}/labels/stable:predict", {"instances": rows})
    assert status == 200
    assert by_row["predictions"] == by_column["outputs"]


def test_status_metadata_and_health(served: str) -> None:
    status, found = call(f"{served}/v1/models/flights")
    assert status == 200
    newest = found["model_version_status"][0]
    assert newest["state"] == "AVAILABLE"
    assert newest["status"] == {"error_code": "OK", "error_message": ""}
    status, found = call(f"{served}/v1/models/flights/versions/{newest['version']}/metadata")
    signature = found["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["carrier"]["dtype"] == "DT_STRING"
    assert signature["outputs"]["probability"]["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}]
    assert call(f"{served}/healthz") == (200, {"status": "ok", "models": ["flights", "flights-xgboost"]})
    assert call(f"{served}/v1/models/flightz")[0] == 404


def test_requests_pass_serves_wrappers(served: str) -> None:
    """Serve names requests by UUIDs; an id of process and number says that our connection answered."""
    with urllib.request.urlopen(f"{served}/v1/models/flights", timeout=30) as response:
        assert re.fullmatch("[0-9a-f]{16}-[0-9a-f]+", response.headers["x-request-id"])


def test_grpc_gives_the_published_scores_past_serves_wrappers(
    served: str, cluster: Cluster, trained: dict[str, dict[str, Any]]
) -> None:
    """Serve names every answer of its own way in the trailing metadata; ours repeat a client's name."""
    golden = json.loads((Path(trained["torch"]["path"]) / "golden.json").read_text())
    rows = range(len(golden["scores"]))
    # a null in a column of integers has no form over gRPC
    whole = [row for row in rows if all(values[row] is not None for values in golden["inputs"].values())]
    assert len(whole) > 5
    with grpc.insecure_channel(f"127.0.0.1:{cluster.grpc_port}") as channel:

        def rpc(name: str, request: Any, answer: Any, **metadata: str) -> tuple[Any, dict[str, Any]]:
            method = f"/inference.GRPCInferenceService/{name}"
            call = channel.unary_unary(method, response_deserializer=answer.FromString).with_call
            found, about = call(
                request.SerializeToString(), metadata=tuple(metadata.items()), timeout=30, wait_for_ready=True
            )
            return found, dict(about.trailing_metadata())

        about, _ = rpc("ModelMetadata", pb.ModelMetadataRequest(name="flights"), pb.ModelMetadataResponse)
        request = pb.ModelInferRequest(model_name="flights", model_version="stable")
        for tensor in about.inputs:
            values = [golden["inputs"][tensor.name][row] for row in whole]
            request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=[len(values)])
            if tensor.datatype == "BYTES":
                texts = [value.encode() for value in values]
                raw = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
            else:
                raw = np.array(values, NUMPY[tensor.datatype]).tobytes()
            request.raw_input_contents.append(raw)
        answer, trailing = rpc("ModelInfer", request, pb.ModelInferResponse)
        scores = np.frombuffer(answer.raw_output_contents[0], "<f4")
        assert scores == pytest.approx([golden["scores"][row] for row in whole], abs=1e-5)
        assert "request_id" not in trailing
        _, trailing = rpc("ModelInfer", request, pb.ModelInferResponse, request_id="mine")
        assert trailing["request_id"] == "mine"
        with pytest.raises(grpc.RpcError, match="nothere"):
            rpc("ModelInfer", request, pb.ModelInferResponse, application="nothere")
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "flights"):
            asked = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
            assert asked.status == health_pb2.HealthCheckResponse.SERVING


def test_every_protocol_over_http_gives_the_published_scores(
    served: str, trained: dict[str, dict[str, Any]]
) -> None:
    golden = json.loads((Path(trained["torch"]["path"]) / "golden.json").read_text())
    status, metadata = call(f"{served}/v2/models/flights")
    assert status == 200
    datatypes = {tensor["name"]: tensor["datatype"] for tensor in metadata["inputs"]}
    tensors = [
        {"name": name, "datatype": datatypes[name], "shape": [len(values)], "data": values}
        for name, values in golden["inputs"].items()
    ]
    status, answer = call(f"{served}/v2/models/flights/infer", {"inputs": tensors})
    assert status == 200
    assert answer["outputs"][0]["data"] == pytest.approx(golden["scores"], abs=1e-5)
    names, columns = golden["inputs"].keys(), golden["inputs"].values()
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    status, answer = call(f"{served}/predictions/flights", rows)
    assert (status, answer) == (200, pytest.approx(golden["scores"], abs=1e-5))
    status, api = call(f"{served}/openapi.json")
    assert {"/v1/models/flights:predict", "/v2/models/flights/infer", "/predictions/flights"} <= set(
        api["paths"]
    )


def test_lines_stream_through_the_ingress(served: str, trained: dict[str, dict[str, Any]]) -> None:
    """Answers come while the body is still being sent, in order, with one request id."""
    golden = json.loads((Path(trained["torch"]["path"]) / "golden.json").read_text())
    names, columns = golden["inputs"].keys(), golden["inputs"].values()
    lines = [json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in zip(*columns, strict=True)]
    host, port = served.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/models/flights:predict HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\n"
            b"Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        stream = connection.makefile("rb")

        def send(text: str) -> None:
            data = text.encode()
            connection.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")

        send(lines[0])
        head = iter(stream.readline, b"\r\n")
        status, *headers = [line.decode().strip().lower() for line in head]
        assert status.startswith("http/1.1 200")
        assert [header for header in headers if header.startswith("x-request-id")] == ["x-request-id: mine"]
        scores = [float(chunk(stream))]  # before the rest is sent
        for _ in range(20):
            send("".join(lines))
        connection.sendall(b"0\r\n\r\n")
        while data := chunk(stream):
            scores += map(float, data.split())
    assert scores == pytest.approx([golden["scores"][0], *golden["scores"] * 20], abs=1e-5)


def test_a_client_that_does_not_read_is_not_read_from(served: str) -> None:
    """What the replica cannot answer yet waits at the client and not in the replica's memory."""
    host, port = served.removeprefix("http://").split(":")
    part, sent, most = b"{}\n" * 50_000, 0, 64 << 20  # each line's answer is much larger than it
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(
            b"POST /v1/models/flights:predict HTTP/1.1\r\nHost: x\r\n"
            b"Content-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n" % most
        )
        with suppress(TimeoutError):
            while sent < most:
                sent += connection.send(part)
    assert sent < 32 << 20


def chunk(stream: Any) -> bytes:
    """Return the next chunk of a chunked body, empty at its end."""
    size = int(stream.readline(), 16)
    data = stream.read(size)
    stream.readline()
    return data


def test_a_new_version_takes_over_without_a_failed_request(cluster: Cluster, served: str) -> None:
    """Retrain: the label moves, replicas follow it, and nobody who asks all the while sees an error."""
    url = f"{served}/v1/models/flights-xgboost"
    before = int(call(url)[1]["model_version_status"][0]["version"])
    golden = json.loads((cluster.storage / f"models/flights-xgboost/{before}/golden.json").read_text())
    answers: list[tuple[int, str]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            status, answer = call(f"{url}:predict", {"inputs": golden["inputs"]})
            answers.append((status, json.dumps(answer)))
            time.sleep(0.02)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        code, output = cluster.submit(
            "jobs/train.py", "--config", "examples/flights/train.yaml", *SMALL,
            "--set", "flavor=xgboost", "--set", "model=flights-xgboost", "--set", "seed=14",
        )  # fmt: skip
        deadline, now = time.monotonic() + 30, before
        while now == before and time.monotonic() < deadline:
            now = int(call(f"{url}/metadata")[1]["model_spec"]["version"])
            time.sleep(0.1)
        time.sleep(1)
    finally:
        stop.set()
        asker.join(timeout=30)
    assert code == 0, output
    assert closing_line(output)["version"] == now == before + 1
    assert {status for status, _ in answers} == {200}
    assert len({answer for _, answer in answers}) == 2, "both versions must have been asked, and no other"
    rolled = cluster.run("raymill", "models", "rollback", "flights-xgboost", "stable")
    assert rolled.returncode == 0, rolled.stderr
    assert f"version {before}" in rolled.stdout


def test_evaluate_gives_the_metrics_that_training_published(
    cluster: Cluster, trained: dict[str, dict[str, Any]]
) -> None:
    code, output = cluster.submit("jobs/evaluate.py", "--config", "examples/flights/evaluate.yaml")
    assert code == 0, output
    result = closing_line(output)
    assert result["rows"] == 53_991
    assert result["metrics"] == pytest.approx(trained["torch"]["metrics"]["test"])


def test_serve_deploy_sends_what_the_serve_job_sends() -> None:
    import yaml

    from raymill import config
    from raymill.serving.deploy import document
    from raymill.serving.spec import ServeSpec

    spec = config.load(ServeSpec, ROOT / "examples/flights/serve.yaml")
    by_hand = yaml.safe_load((ROOT / "serve_apps/models.yaml").read_text())
    sent = document(spec)
    given = ServeSpec.model_validate(by_hand["applications"][0].pop("args"))
    assert given == spec
    sent["applications"][0].pop("args")
    assert by_hand == sent
