"""Is Raymill the fastest Python model server, and how far is it from what its ingress can do?

One network (28 floats, 64 units, 3 classes; the same exported torch program for everybody, and ours as it is
published besides), one load generator, all servers up at the same time, one process that predicts each,
asked by turns. HTTP: a row by one and by 32 clients, 128 rows by 8; the same 128 rows as JSON and as a binary
tensor; gRPC with messages made beforehand; and what the server adds to the bare predict call of four
frameworks.

    .venv/bin/python benchmarks/serving.py [--environments DIR] [--rounds 5] [--seconds 2]

DIR/mlserver, DIR/litserve and DIR/bentoml are the peers' virtual environments; without it they are made.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import serving_load as load
import serving_models as models
import serving_servers as servers
from common import calls_per_second, console, finish
from rich.table import Table
from serving_load import Form, Load

MODELS = ("program", "torch", "tensorflow", "xgboost")
"""`program` is the exported torch program that the peers serve, `torch` what training publishes."""
OWN = "own"
"""The same program again, in a replica of its own."""
JSON = {"content-type": "application/json"}
PEERS = ("MLServer", "LitServe", "BentoML")
BATCH = 128
ALONE = {"max_replicas": 1}
"""Autoscaling that adds no replica halfway through a run: peers have one, and there are cores for one."""

Forms = Mapping[str, Form]
Loads = dict[str, list[Load]]
Run = Callable[[Form, int, int], Load]


def main() -> None:
    options = arguments()
    load.tools()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every server is ended
    with tempfile.TemporaryDirectory(prefix="rbm-") as folder:
        root = Path(folder)
        program = models.publish("program", root) / "model.pt2"
        for name in (*MODELS[1:], OWN):
            models.publish(name, root)
        figures = default_row(program, options)
        with ExitStack() as stack:
            http, grpc = start(stack, program, root, options)
            figures |= measure(http, grpc, options)
        figures |= overheads(root, options)
    finish("serving", {name: round(value, 3) for name, value in figures.items()})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environments", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    return parser.parse_args()


def default_row(program: Path, options: argparse.Namespace) -> dict[str, float]:
    """Measure Ray Serve as installed, alone: its Python proxy takes a core of its own."""
    with servers.ray({"plain": "/plain"}, fast=False, program=str(program)) as (port, _):
        forms = {"Ray Serve as installed": tfs(port, "/plain", 1)}
        check(forms)
        one = take(forms, 1, options)
        many = take(forms, 32, options)
    show("HTTP, 1 row, Ray Serve as installed", {1: one, 32: many})
    return {"ray_default_c32_per_s": median(many["Ray Serve as installed"], "per_s")}


def start(
    stack: ExitStack, program: Path, root: Path, options: argparse.Namespace
) -> tuple[dict[int, dict[str, Form]], dict[int, dict[str, Form]]]:
    """Start all servers; return the HTTP and gRPC requests by number of rows and server."""
    spec = {
        "repository": str(root), "grpc_protocols": ["oip_grpc"], "autoscaling": ALONE,
        "models": {
            **{name: {"serve": ["latest"]} for name in MODELS[:2]},
            OWN: {"serve": ["latest"], "placement": "own", "own": {"num_cpus": 0.25, "autoscaling": ALONE}},
        },
    }  # fmt: skip
    prefixes = {"models": "/", "plain": "/plain", "raw": "/raw"}
    http_port, grpc_port = stack.enter_context(
        servers.ray(prefixes, fast=True, spec=spec, program=str(program))
    )
    python = {peer: servers.python_of(peer, options.environments) for peer in servers.PINS}
    ml_http, ml_grpc = stack.enter_context(servers.mlserver(python["mlserver"], program))
    lit = stack.enter_context(servers.litserve(python["litserve"], program))
    bento = stack.enter_context(servers.bentoml(python["bentoml"], program))
    limit = stack.enter_context(servers.limit())
    http = {
        rows: {
            "Raymill": tfs(http_port, "/v1/models/program:predict", rows),
            "Raymill, as published": tfs(http_port, "/v1/models/torch:predict", rows),
            "Raymill, placement own": tfs(http_port, f"/v1/models/{OWN}:predict", rows),
            "Raymill, OIP JSON": oip(http_port, rows),
            "Raymill, OIP binary": oip_binary(http_port, rows),
            "Ray Serve, HAProxy, throughput": tfs(http_port, "/plain", rows),
            "Ray Serve, the same, raw ASGI": tfs(http_port, "/raw", rows),
            "MLServer": oip(ml_http, rows),
            "LitServe": tfs(lit, "/predict", rows),
            "BentoML": tfs(bento, "/predict", rows),
            "limit: no model, uvicorn behind HAProxy": tfs(limit, "/", rows),
            "limit, OIP binary": replace(oip_binary(http_port, rows), url=f"http://127.0.0.1:{limit}/"),
        }
        for rows in (1, BATCH)
    }
    for forms in http.values():
        check(forms)
    grpc = {
        rows: {
            "Raymill": oip_grpc(grpc_port, "program", rows),
            "Raymill, as published": oip_grpc(grpc_port, "torch", rows),
            "MLServer": oip_grpc(ml_grpc, "torch", rows),
        }
        for rows in (1, BATCH)
    }
    for forms in grpc.values():
        check_grpc(forms)
    return http, grpc


def measure(http: dict[int, Any], grpc: dict[int, Any], options: argparse.Namespace) -> dict[str, float]:
    one, many = take(http[1], 1, options), take(http[1], 32, options)
    show("HTTP, 1 row", {1: one, 32: many})
    batch = take(http[BATCH], 8, options)
    show(f"HTTP, {BATCH} rows", {8: batch})
    calls = {rows: take(grpc[rows], 32, options, load.grpc) for rows in (1, BATCH)}
    for rows, found in calls.items():
        show(f"gRPC, {rows} rows", {32: found})
    limit = next(name for name in many if name.startswith("limit"))
    plain, raw = "Ray Serve, HAProxy, throughput", "Ray Serve, the same, raw ASGI"
    return {
        "http_vs_best_peer": min(ratio(many, "Raymill", peer) for peer in PEERS),
        "http_vs_ray_haproxy": ratio(many, "Raymill", plain),
        "p50_vs_raw_asgi": ratio(one, "Raymill", raw, "p50_us"),
        "limit_share": ratio(many, "Raymill", limit),
        "batch_vs_best_peer": min(ratio(batch, "Raymill", peer) for peer in PEERS),
        "binary_vs_json": ratio(batch, "Raymill, OIP binary", "Raymill, OIP JSON"),
        "binary_limit_share": ratio(batch, "Raymill, OIP binary", "limit, OIP binary"),
        "grpc_vs_mlserver": min(ratio(found, "Raymill", "MLServer") for found in calls.values()),
        "own_vs_shared_c32": ratio(many, "Raymill, placement own", "Raymill"),
        "own_vs_shared_batch": ratio(batch, "Raymill, placement own", "Raymill"),
        "own_vs_shared_p50": ratio(one, "Raymill, placement own", "Raymill", "p50_us"),
        "http_c32_per_s": median(many["Raymill"], "per_s"),
        "published_c32_per_s": median(many["Raymill, as published"], "per_s"),
        "published_limit_share": ratio(many, "Raymill, as published", limit),
        "onnx_vs_torch_c32": ratio(many, "Raymill, as published", "Raymill"),
        "onnx_vs_torch_batch": ratio(batch, "Raymill, as published", "Raymill"),
    }


def overheads(root: Path, options: argparse.Namespace) -> dict[str, float]:
    """Measure the time of one client's request beyond that of the bare predict call, by framework."""
    from raymill.flavors import FLAVORS

    spec = {"repository": str(root), "models": {name: {"serve": ["latest"]} for name in MODELS}}
    figures = {}
    table = Table("model", "rows", "bare us", "request p50 us", "overhead us", title="overhead")
    with servers.ray({"models": "/"}, fast=True, spec=spec) as (port, _):
        for name in MODELS:
            flavor = "torch" if name == "program" else name
            predictor = FLAVORS.load(flavor)().load(root / name / "1", models.encoder())
            for rows in (1, BATCH):
                given = models.features(models.rows(rows))
                bare = 1e6 / calls_per_second(lambda p=predictor, g=given: p.predict(g), options.seconds)
                forms = {name: tfs(port, f"/v1/models/{name}:predict", rows)}
                check(forms)
                whole = median(take(forms, 1, options)[name], "p50_us")
                table.add_row(name, str(rows), *(f"{value:,.0f}" for value in (bare, whole, whole - bare)))
                figures |= {f"{name}_{rows}_bare_us": bare, f"{name}_{rows}_overhead_us": whole - bare}
    console.print(table)
    return figures


def take(forms: Forms, connections: int, options: argparse.Namespace, run: Run = load.http) -> Loads:
    """Ask all servers by turns, in a new order each round; the first round warms up."""
    names, found = list(forms), {name: [] for name in forms}
    for number in range(-1, options.rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            one = run(forms[name], connections, 1 if number < 0 else options.seconds)
            if number >= 0:
                found[name].append(one)
    return found


def median(loads: list[Load], what: str) -> float:
    return statistics.median(getattr(one, what) for one in loads)


def ratio(loads: Loads, name: str, other: str, what: str = "per_s") -> float:
    """Return the median over the rounds of the ratio within a round."""
    pairs = zip(loads[name], loads[other], strict=True)
    return statistics.median(getattr(mine, what) / getattr(theirs, what) for mine, theirs in pairs)


def show(title: str, by_connections: Mapping[int, Loads]) -> None:
    heads = [f"c={c} {what}" for c in by_connections for what in ("p50 ms", "p99 ms", "req/s", "smallest")]
    table = Table("server", *heads, title=title)
    for name in next(iter(by_connections.values())):
        cells = []
        for loads in by_connections.values():
            cells += [f"{median(loads[name], what) / 1000:.3f}" for what in ("p50_us", "p99_us")]
            cells += [f"{median(loads[name], 'per_s'):,.0f}"]
            cells += [f"{min(one.per_s for one in loads[name]):,.0f}"]
        table.add_row(name, *cells)
    console.print(table)


def tfs(port: int, path: str, rows: int) -> Form:
    body = orjson.dumps({"instances": models.rows(rows).astype(float).tolist()})
    return Form(f"http://127.0.0.1:{port}{path}", body, JSON)


def _tensor(rows: int) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [rows, models.FEATURES]}


def oip(port: int, rows: int, model: str = "torch") -> Form:
    data = models.rows(rows).astype(float).reshape(-1).tolist()
    body = orjson.dumps({"inputs": [_tensor(rows) | {"data": data}]})
    return Form(f"http://127.0.0.1:{port}/v2/models/{model}/infer", body, JSON)


def oip_binary(port: int, rows: int) -> Form:
    data = models.rows(rows).tobytes()
    tensor = _tensor(rows) | {"parameters": {"binary_data_size": len(data)}}
    head = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    headers = {
        "content-type": "application/octet-stream", "inference-header-content-length": str(len(head))
    }  # fmt: skip
    return Form(f"http://127.0.0.1:{port}/v2/models/torch/infer", head + data, headers)


def oip_grpc(port: int, model: str, rows: int) -> Form:
    from raymill.serving.proto import oip_messages_pb2 as pb

    message = pb.ModelInferRequest(model_name=model, raw_input_contents=[models.rows(rows).tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=[rows, models.FEATURES])
    url = f"http://127.0.0.1:{port}/inference.GRPCInferenceService/ModelInfer"
    return Form(url, message.SerializeToString(), {"application": "models"})  # Serve has three here


def check(forms: Forms) -> None:
    """Wait for every server, and refuse figures of one that answers something else than the first."""
    expected: np.ndarray | None = None
    for name, form in forms.items():
        answer = servers.wait_for(form)
        if name.startswith("limit") or "binary" in name:
            continue
        document = json.loads(answer)
        scores = document.get("predictions") or document["outputs"][0]["data"]
        found = np.asarray(scores, np.float32).reshape(-1, len(models.CLASSES))
        expected = found if expected is None else expected
        np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=name)


def check_grpc(forms: Forms) -> None:
    import grpc

    from raymill.serving.proto import oip_messages_pb2 as pb

    for form in forms.values():
        address, path = form.url.removeprefix("http://").split("/", 1)
        with grpc.insecure_channel(address) as channel:
            call = channel.unary_unary(
                f"/{path}", lambda sent: sent, response_deserializer=pb.ModelInferResponse.FromString
            )
            answer = call(form.body, metadata=tuple(form.headers.items()), timeout=30, wait_for_ready=True)
        assert answer.outputs[0].shape[1] == len(models.CLASSES), answer


if __name__ == "__main__":
    main()
