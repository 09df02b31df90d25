"""Every wire protocol, over one plane: right answers, and its own error shape and code for each bad request.

The table of bad requests is one for all protocols; how a protocol writes a request is its dialect below.
A protocol in PROTOCOLS without a dialect fails.
"""

from __future__ import annotations

import gzip
import json
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import toy
from asgi import LIMIT, ask

from raymill.serving import PROTOCOLS
from raymill.serving.http import HttpApp
from raymill.serving.plane import Plane

DATATYPES = {"x": "FP32", "w": "BYTES", "n": "INT8", "y": "FP32"}
CODES = {"invalid": 400, "not_found": 404, "method": 405, "too_large": 413, "media_type": 415}


@dataclass(frozen=True)
class Dialect:
    """How a protocol asks for a prediction, what its answers hold, and its codes where they differ."""

    path: Callable[[str, str], str]
    """Of a model and a version or label, "" for none."""
    body: Callable[[dict[str, list[Any]]], Any]
    scores: Callable[[Any], list[float]]
    error: Callable[[Any], str]
    """The message of an error of the right shape."""
    codes: dict[str, int] = field(default_factory=lambda: CODES)


def tfserving_path(model: str, wanted: str) -> str:
    part = f"/versions/{wanted}" if wanted.isdigit() else f"/labels/{wanted}" if wanted else ""
    return f"/v1/models/{model}{part}:predict"


def oip_body(columns: dict[str, list[Any]]) -> Any:
    return {
        "inputs": [
            {"name": name, "datatype": DATATYPES.get(name, "FP32"), "shape": [len(values)], "data": values}
            for name, values in columns.items()
        ]
    }


def rows(columns: dict[str, list[Any]]) -> Any:
    """Return columns as rows; a row lacks what a column that is too short does not have."""
    longest = max(map(len, columns.values()))
    return [
        {name: values[row] for name, values in columns.items() if row < len(values)} for row in range(longest)
    ]


def mms_error(answer: Any) -> str:
    assert answer.keys() == {"code", "type", "message"}
    assert answer["type"].endswith("Exception")
    return str(answer["message"])


def error(answer: Any) -> str:
    assert answer.keys() == {"error"}
    return str(answer["error"])


DIALECTS = {
    "tfserving_rest": Dialect(
        path=tfserving_path,
        body=lambda columns: {"inputs": columns},
        scores=lambda answer: answer["outputs"],
        error=error,
    ),
    "oip_rest": Dialect(
        path=lambda model, wanted: f"/v2/models/{model}{wanted and f'/versions/{wanted}'}/infer",
        body=oip_body,
        scores=lambda answer: answer["outputs"][0]["data"],
        error=error,
    ),
    "mms_rest": Dialect(
        path=lambda model, wanted: f"/predictions/{model}{wanted and f'/{wanted}'}",
        body=rows,
        scores=lambda answer: answer,
        error=mms_error,
    ),
}


def refused(app: HttpApp, name: str, kind: str, *request: Any, **more: Any) -> str:
    """Send what must be refused, with the protocol's own code and shape; return the message."""
    status, answer = ask(app, *request, **more)
    assert status == DIALECTS[name].codes[kind], answer
    message = DIALECTS[name].error(answer)
    assert message
    assert "Traceback" not in message
    return message


def test_every_protocol_has_a_dialect() -> None:
    assert set(DIALECTS) == set(PROTOCOLS)
    assert [PROTOCOLS.load(name).name for name in PROTOCOLS] == list(PROTOCOLS)


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("wanted", ["", "1", "stable"])
def test_right_answers(app: HttpApp, name: str, wanted: str) -> None:
    dialect = DIALECTS[name]
    for parts in (1, 3):
        status, answer = ask(app, dialect.path("toy", wanted), dialect.body(toy.ROWS), parts=parts)
        assert status == 200
        assert dialect.scores(answer) == [3.0, 4.0, 20.0]
    status, answer = ask(app, dialect.path("strict", wanted), dialect.body(toy.STRICT))
    assert (status, dialect.scores(answer)) == (200, [9.0, -261.0])


COLUMNS: dict[str, list[Any]] = {"x": [1.0], "n": [1], "w": ["a"]}
BAD: dict[str, tuple[dict[str, list[Any]], str]] = {
    "missing column": ({"x": [1.0], "n": [1]}, "missing inputs: w"),
    "extra column": ({**COLUMNS, "y": [1.0]}, "unknown inputs: y"),
    "text for a number": ({**COLUMNS, "x": ["1"]}, "expected float32, got str '1'"),
    "number beyond its type": ({**COLUMNS, "x": [1e300]}, "1e\\+300 is outside the range of float32"),
    "integer beyond its type": ({**COLUMNS, "n": [128]}, "128 is outside the range of int8"),
    "fraction for an integer": ({**COLUMNS, "n": [1.5]}, "expected int8, got float 1.5"),
    "boolean for a number": ({**COLUMNS, "x": [True]}, "expected float32, got bool"),
    "boolean for an integer": ({**COLUMNS, "n": [True]}, "expected int8, got bool"),
    "number for text": ({**COLUMNS, "w": [1]}, "expected string, got int"),
    "object for a number": ({**COLUMNS, "x": [{"a": 1}]}, "expected float32, got dict"),
    "rank": ({**COLUMNS, "x": [[1.0, 2.0]]}, "expected float32, got list|has 2 elements of data"),
    "null": ({**COLUMNS, "x": [None]}, "row 0: null, but this input has no null policy"),
    "null text": ({**COLUMNS, "w": [None]}, "row 0: null, but this input has no null policy"),
    "NaN": ({**COLUMNS, "x": [float("nan")]}, "JSON Parse error|row 0: nan is outside the range"),
    "infinity": ({**COLUMNS, "x": [float("inf")]}, "JSON Parse error|row 0: inf is outside the range"),
    "unequal lengths": ({**COLUMNS, "x": [1.0, 2.0]}, "same number of rows|the same inputs as row 0"),
    "no rows": ({"x": [], "n": [], "w": []}, "at least one row"),
    "twentieth row": (
        {"x": [1.0] * 20, "n": [1] * 19 + [True], "w": ["a"] * 20}, "row 19: expected int8, got bool",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("case", BAD)
def test_bad_columns(app: HttpApp, name: str, case: str) -> None:
    dialect, (columns, words) = DIALECTS[name], BAD[case]
    message = refused(app, name, "invalid", dialect.path("strict", ""), dialect.body(columns))
    assert re.search(words, message), message


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize(
    ("model", "wanted", "words"),
    [("tyo", "", "Did you mean 'toy'"), ("toy", "9", "version 9"), ("toy", "canary", "label 'canary'")],
)
def test_what_is_not_there(app: HttpApp, name: str, model: str, wanted: str, words: str) -> None:
    dialect = DIALECTS[name]
    for body in (dialect.body(COLUMNS), b"{"):
        assert words in refused(app, name, "not_found", dialect.path(model, wanted), body)


RAW = {
    "no body": b"",
    "half an object": b'{"inputs": {"x"',
    "not UTF-8": b'{"inputs": "\xff"}',
    "a list of numbers": b"[1, 2]",
    "a string": b'"x"',
    "null": b"null",
    "a number": b"1",
    "an empty object": b"{}",
    "NaN misspelt": b'{"inputs": {"x": [NAN], "w": ["a"]}}',
    "deep nesting": b'{"inputs":' + b"[" * 2000 + b"]" * 2000 + b"}",
    "inputs null": b'{"inputs": null, "instances": null}',
    "half a surrogate": b'{"inputs": "\\ud800"}',
}


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("case", RAW)
def test_bad_bodies(app: HttpApp, name: str, case: str) -> None:
    for parts in (1, 5):
        refused(app, name, "invalid", DIALECTS[name].path("toy", ""), RAW[case], parts=parts)


@pytest.mark.parametrize("name", sorted(DIALECTS.keys() - {"tfserving_rest"}))
def test_bare_nan_and_byte_order_marks_are_tf_servings_alone(app: HttpApp, name: str) -> None:
    dialect = DIALECTS[name]
    nan = json.dumps(dialect.body({"x": [float("nan")], "w": ["a"]})).encode()
    for body in (nan, b"\xef\xbb\xbf" + nan.replace(b"NaN", b"1")):
        assert "JSON Parse error" in refused(app, name, "invalid", dialect.path("toy", ""), body)


MANY: dict[str, list[Any]] = {f"key-{i}": [1.0] for i in range(20_000)}
LONG = "k" * 100_000


@pytest.fixture(scope="module")
def roomy(plane: Plane) -> HttpApp:
    """The protocols, with room for large bodies."""
    return HttpApp(plane, [PROTOCOLS.load(name)(plane) for name in PROTOCOLS], 64 << 20)


@pytest.mark.parametrize("name", DIALECTS)
def test_errors_are_short_whatever_was_sent(roomy: HttpApp, name: str) -> None:
    dialect = DIALECTS[name]
    for columns, words in (
        (MANY, "key-9 and 19,990 more"),
        ({**COLUMNS, LONG: [1.0]}, "unknown inputs: kkk"),
        ({LONG: []}, "kkk|at least one row"),
        ({**COLUMNS, "x": [LONG]}, "expected float32, got str 'kkk"),
        ({**COLUMNS, "x": [[1.0] * 100_000]}, "expected float32, got list|has 100000 elements of data"),
        ({**COLUMNS, "x": [MANY]}, "expected float32, got dict"),
    ):
        body = json.dumps(dialect.body(columns)).encode()
        message = refused(roomy, name, "invalid", dialect.path("strict", ""), body)
        assert re.search(words, message), message
        assert len(message) < 1000
    for model, wanted in ((LONG, ""), ("toy", LONG)):
        message = refused(roomy, name, "not_found", dialect.path(model, wanted), dialect.body(COLUMNS))
        assert len(message) < 1000


@pytest.mark.parametrize("name", DIALECTS)
def test_bodies_beyond_the_limit(app: HttpApp, name: str) -> None:
    path, large = DIALECTS[name].path("toy", ""), b'{"inputs": "' + b"x" * LIMIT + b'"}'
    for parts in (1, 5):
        assert "send fewer rows" in refused(app, name, "too_large", path, large, parts=parts)
    told = {"content-length": str(LIMIT + 1)}
    assert "send fewer rows" in refused(app, name, "too_large", path, b"{}", headers=told)
    bomb = gzip.compress(b" " * 3_000_000)
    assert len(bomb) < LIMIT
    tracemalloc.start()
    message = refused(app, name, "too_large", path, bomb, headers={"content-encoding": "gzip"})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "send fewer rows" in message
    assert peak < 500_000


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/csv"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/json", "content-encoding": "br"},
    ],
    ids=lambda headers: "; ".join(headers.values()),
)
def test_wrong_content_types(app: HttpApp, name: str, headers: dict[str, str]) -> None:
    dialect = DIALECTS[name]
    message = refused(
        app, name, "media_type", dialect.path("strict", ""), dialect.body(COLUMNS), headers=headers
    )
    assert "is not read here" in message


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("method", ["GET", "DELETE", "PATCH"])
def test_wrong_methods(app: HttpApp, name: str, method: str) -> None:
    dialect = DIALECTS[name]
    message = refused(app, name, "method", dialect.path("strict", ""), dialect.body(COLUMNS), method)
    assert method in message


def test_paths_of_no_protocol(app: HttpApp) -> None:
    models = ["chance", "kinds", "strict", "toy", "vector"]
    assert ask(app, "/healthz", method="GET") == (200, {"status": "ok", "models": models})
    status, answer = ask(app, "/nothing", method="GET")
    assert status == 404
    assert "/healthz" in answer["error"]
