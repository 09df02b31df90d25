"""What does the form of a request cost: rows, columns or tensors, JSON or binary?

128 rows of 28 float32, as 28 inputs and as one vector input, in each form that the protocols have for them.
Two figures a form, both in processor time, which other work on the machine disturbs little: the HTTP
application alone, from request bytes to response bytes, and all that a server process (uvicorn) spends on
a request over a kept connection. The model only copies a column, so that what is left is ours. Peers are
in benchmarks/serving.py.

    .venv/bin/python benchmarks/http_bodies.py
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil
from common import compare, finish

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import toy

from raymill.features import Encoder, Features, FittedColumn
from raymill.repo import Repository
from raymill.serving import PROTOCOLS
from raymill.serving.http import HttpApp
from raymill.serving.plane import Plane
from raymill.serving.spec import ModelSpec

FEATURES = 28
SECONDS = 0.3  # the clock of another process ticks in hundredths
LENGTH = "inference-header-content-length"

Form = tuple[str, bytes, dict[str, str]]
"""Path, body, headers."""


def main() -> None:
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        application = build(Path(folder))
        port = free_port()
        command = [sys.executable, __file__, "serve", folder, str(port)]
        with subprocess.Popen(command) as server:
            try:
                connection = connect(port)
                process = psutil.Process(server.pid)
                for rows in (1, 128, 1024):
                    figures |= measure(application, connection, process, rows)
            finally:
                server.terminate()
    finish("http_bodies", figures)


def measure(
    application: HttpApp, connection: socket.socket, server: psutil.Process, rows: int
) -> dict[str, float]:
    found, figures = forms(rows), {}
    loop = asyncio.new_event_loop()

    def alone(form: Form) -> Callable[[], float]:
        return lambda: loop.run_until_complete(calls_per_second_alone(application, form))

    def whole(form: Form) -> Callable[[], float]:
        return lambda: requests_per_second(connection, server, raw(form))

    for what, contend in (("application", alone), ("server", whole)):
        contenders = {name: contend(form) for name, form in found.items()}
        result = compare(contenders, unit="calls/s of processor", rounds=5)
        result.show(f"{what}, {rows} rows x {FEATURES}", "oip vector json")
        for name in found:
            figures[f"{what}_{rows}_{name.replace(' ', '_')}_us"] = round(1e6 / result.median(name), 1)
        for kind in ("vector", "columns"):
            ratio = result.ratio(f"oip {kind} binary", f"oip {kind} json")
            figures[f"{what}_{rows}_{kind}_binary_vs_json"] = round(ratio, 2)
    return figures


def forms(rows: int) -> dict[str, Form]:
    values = np.random.default_rng(0).normal(size=(rows, FEATURES)).astype(np.float32)
    names = [f"f{i}" for i in range(FEATURES)]
    plain = values.astype(float).tolist()
    by_column = dict(zip(names, values.T.astype(float).tolist(), strict=True))
    v1, v2 = "/v1/models/{}:predict", "/v2/models/{}/infer"
    vector = {"name": "x", "datatype": "FP32", "shape": [rows, FEATURES]}
    columns = [{"name": name, "datatype": "FP32", "shape": [rows]} for name in names]
    return {
        "tfs rows": json_form(
            v1.format("columns"), {"instances": [dict(zip(names, row, strict=True)) for row in plain]}
        ),
        "tfs columns": json_form(v1.format("columns"), {"inputs": by_column}),
        "tfs vectors": json_form(v1.format("vector"), {"instances": plain}),
        "oip vector json": json_form(
            v2.format("vector"), {"inputs": [vector | {"data": values.astype(float).reshape(-1).tolist()}]}
        ),
        "oip columns json": json_form(
            v2.format("columns"),
            {"inputs": [tensor | {"data": by_column[tensor["name"]]} for tensor in columns]},
        ),
        "oip vector binary": binary_form(v2.format("vector"), [(vector, values)]),
        "oip columns binary": binary_form(
            v2.format("columns"),
            [(tensor, column) for tensor, column in zip(columns, values.T, strict=True)],
        ),
    }  # fmt: skip


def json_form(path: str, document: Any) -> Form:
    return path, orjson.dumps(document), {"content-type": "application/json"}


def binary_form(path: str, tensors: list[tuple[dict[str, Any], np.ndarray]]) -> Form:
    described = [tensor | {"parameters": {"binary_data_size": data.nbytes}} for tensor, data in tensors]
    head = orjson.dumps({"inputs": described, "parameters": {"binary_data_output": True}})
    body = b"".join([head, *(data.tobytes() for _, data in tensors)])
    return path, body, {"content-type": "application/octet-stream", LENGTH: str(len(head))}


async def calls_per_second_alone(application: HttpApp, form: Form) -> float:
    """Return how often the application answers in a second of processor time."""
    count, started = 0, time.process_time()
    while (elapsed := time.process_time() - started) < SECONDS:
        await ask(application, form)
        count += 1
    return count / elapsed


def requests_per_second(connection: socket.socket, server: psutil.Process, request: bytes) -> float:
    """Return the requests answered in a second of the server's processor time."""
    count, started = 0, sum(server.cpu_times()[:2])
    while (elapsed := sum(server.cpu_times()[:2]) - started) < SECONDS:
        for _ in range(20):
            exchange(connection, request)
        count += 20
    return count / elapsed


async def ask(application: HttpApp, form: Form) -> None:
    path, body, headers = form

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200

    lines = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": lines}
    await application(scope, receive, send)


def raw(form: Form) -> bytes:
    path, body, headers = form
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def exchange(connection: socket.socket, request: bytes) -> None:
    connection.sendall(request)
    got = connection.recv(65536)
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), got
    size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < size:
        body += connection.recv(65536)


def connect(port: int) -> socket.socket:
    deadline = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=30)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def build(folder: Path) -> HttpApp:
    """Return the application over one model of 28 inputs and one of a vector, published if need be."""
    toy.ToyPredictor.predict = first_column  # type: ignore[method-assign]
    repository, models = Repository(str(folder / "models")), {}
    for model, columns in (
        ("columns", [("f" + str(i), 1) for i in range(FEATURES)]),
        ("vector", [("x", FEATURES)]),
    ):
        fitted = Encoder(columns=tuple(starmap(column, columns)), target="y", task="regression")
        if not (folder / "models" / model).exists():
            one = {name: [0.0 if width == 1 else [0.0] * width] for name, width in columns}
            staged = toy.stage(folder / model, fitted=fitted, rows=one)
            repository.publish(model, staged, toy.manifest(model, fitted=fitted), lambda _: None)
        models[model] = ModelSpec(serve=("latest",))
    plane = Plane(repository, models)
    plane.load()
    return HttpApp(plane, [PROTOCOLS.load(name)(plane) for name in PROTOCOLS], 64 << 20)


def column(name: str, width: int) -> FittedColumn:
    return FittedColumn(name=name, kind="numeric", dtype="float32", width=width, nulls="error", null_count=0)


def first_column(self: toy.ToyPredictor, features: Features) -> np.ndarray:
    return features.numeric_NF[:, 0].copy()


def serve(folder: str, port: str) -> None:
    import uvicorn

    options = {"log_level": "warning", "timeout_keep_alive": 3600}  # the connection waits for its turns
    uvicorn.run(build(Path(folder)), host="127.0.0.1", port=int(port), **options)


if __name__ == "__main__":
    serve(*sys.argv[2:]) if sys.argv[1:2] == ["serve"] else main()
