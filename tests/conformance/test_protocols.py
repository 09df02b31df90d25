"""Every wire protocol, over one plane: right answers, and its own error shape and code for each bad request.

The table of bad requests is one for all protocols; how a protocol writes a request is its dialect below.
A protocol in PROTOCOLS without a dialect fails.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import toy

from raymill.repo import Repository
from raymill.serving import PROTOCOLS
from raymill.serving.http import HttpApp
from raymill.serving.plane import Plane
from raymill.serving.spec import ModelSpec

LIMIT = 4096


@dataclass(frozen=True)
class Dialect:
    """How a protocol asks for a prediction, and what its answers hold."""

    path: Callable[..., str]
    body: Callable[[dict[str, list[Any]]], Any]
    scores: Callable[[Any], list[float]]
    error: Callable[[Any], str]


DIALECTS = {
    "tfserving_rest": Dialect(
        path=lambda model="toy", wanted="": f"/v1/models/{model}{wanted}:predict",
        body=lambda columns: {"inputs": columns},
        scores=lambda answer: answer["outputs"],
        error=lambda answer: answer["error"] if answer.keys() == {"error"} else "",
    ),
}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> HttpApp:
    root = tmp_path_factory.mktemp("served")
    repository = Repository(str(root / "models"))
    models = toy.publish_kinds(repository, root / "staged")
    plane = Plane(repository, {model: ModelSpec() for model in models})
    plane.load()
    return HttpApp(plane, [PROTOCOLS.load(name)(plane) for name in PROTOCOLS], LIMIT)


def ask(app: HttpApp, path: str, body: Any = b"", method: str = "POST", parts: int = 1) -> tuple[int, Any]:
    """Send a request through ASGI, its body in `parts` messages; return status and decoded body."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    size = -(-len(data) // parts) or 1
    chunks = [data[i : i + size] for i in range(0, len(data), size)] or [b""]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        chunk = chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app({"type": "http", "method": method, "path": path, "headers": []}, receive, send))
    headers = dict(sent[0]["headers"])
    assert headers[b"content-type"] == b"application/json"
    assert int(headers[b"content-length"]) == len(sent[1]["body"]) or method == "HEAD"
    return sent[0]["status"], json.loads(sent[1]["body"] or b"null")


def test_every_protocol_has_a_dialect() -> None:
    assert set(DIALECTS) == set(PROTOCOLS)


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("wanted", ["", "/versions/1", "/labels/stable"])
def test_right_answers(app: HttpApp, name: str, wanted: str) -> None:
    dialect = DIALECTS[name]
    for parts in (1, 3):
        status, answer = ask(app, dialect.path(wanted=wanted), dialect.body(toy.ROWS), parts=parts)
        assert status == 200
        assert dialect.scores(answer) == [3.0, 4.0, 20.0]


COLUMNS = {"x": [1.0], "w": ["a"]}
BAD: dict[str, tuple[dict[str, list[Any]], int, str]] = {
    "missing column": ({"x": [1.0]}, 400, "missing inputs: w"),
    "extra column": ({**COLUMNS, "y": [1.0]}, 400, "unknown inputs: y"),
    "text for a number": ({**COLUMNS, "x": ["1"]}, 400, "expected float32"),
    "number beyond its type": ({**COLUMNS, "x": [1e300]}, 400, "outside the range of float32"),
    "boolean for a number": ({**COLUMNS, "x": [True]}, 400, "expected float32"),
    "number for text": ({**COLUMNS, "w": [1]}, 400, "expected string"),
    "list for a number": ({**COLUMNS, "x": [[1.0]]}, 400, "expected float32"),
    "unequal lengths": ({**COLUMNS, "x": [1.0, 2.0]}, 400, "same number of rows"),
    "no rows": ({"x": [], "w": []}, 400, "at least one row"),
}


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("case", BAD)
def test_bad_columns(app: HttpApp, name: str, case: str) -> None:
    dialect, (columns, code, words) = DIALECTS[name], BAD[case]
    status, answer = ask(app, dialect.path(), dialect.body(columns))
    assert status == code
    assert words in dialect.error(answer)


@pytest.mark.parametrize("name", DIALECTS)
def test_what_is_not_there(app: HttpApp, name: str) -> None:
    dialect = DIALECTS[name]
    for path, words in (
        (dialect.path(model="tyo"), "Did you mean 'toy'"),
        (dialect.path(wanted="/versions/9"), "version 9"),
        (dialect.path(wanted="/labels/canary"), "label 'canary'"),
    ):
        status, answer = ask(app, path, dialect.body(COLUMNS))
        assert status == 404
        assert words in dialect.error(answer)


RAW = {
    "no body": (b"", 400),
    "half an object": (b'{"inputs": {"x"', 400),
    "not UTF-8": (b'{"inputs": "\xff"}', 400),
    "a list": (b"[1, 2]", 400),
    "a string": (b'"x"', 400),
    "null": (b"null", 400),
    "NaN": (b'{"inputs": {"x": [NaN], "w": ["a"]}}', 400),
    "deep nesting": (b'{"inputs":' + b"[" * 2000 + b"]" * 2000 + b"}", 400),
    "too large": (b'{"inputs": "' + b"x" * LIMIT + b'"}', 413),
}


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("case", RAW)
def test_bad_bodies(app: HttpApp, name: str, case: str) -> None:
    body, code = RAW[case]
    for parts in (1, 5):
        status, answer = ask(app, DIALECTS[name].path(), body, parts=parts)
        assert status == code
        message = DIALECTS[name].error(answer)
        assert message
        assert "Traceback" not in message


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_wrong_methods(app: HttpApp, name: str, method: str) -> None:
    status, answer = ask(app, DIALECTS[name].path(), DIALECTS[name].body(COLUMNS), method=method)
    assert 400 <= status < 500
    assert method in DIALECTS[name].error(answer)


def test_paths_of_no_protocol(app: HttpApp) -> None:
    assert ask(app, "/healthz", method="GET") == (
        200, {"status": "ok", "models": ["chance", "kinds", "toy", "vector"]},
    )  # fmt: skip
    status, answer = ask(app, "/nothing", method="GET")
    assert status == 404
    assert "/healthz" in answer["error"]
