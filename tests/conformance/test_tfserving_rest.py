"""TensorFlow Serving's REST API, body by body: https://www.tensorflow.org/tfx/serving/api_rest."""

from __future__ import annotations

import base64
from operator import itemgetter
from typing import Any

import numpy as np
import pytest
from asgi import ask

from raymill.serving.http import HttpApp

PREDICT = "/v1/models/toy:predict"
ROWS = [{"x": 1.0, "w": "a"}, {"x": None, "w": "zz"}]


def test_rows_and_columns_give_the_same(app: HttpApp) -> None:
    assert ask(app, PREDICT, {"instances": ROWS}) == (200, {"predictions": [3.0, 20.0]})
    columns = {"x": [1.0, None], "w": ["a", "zz"]}
    assert ask(app, PREDICT, {"inputs": columns}) == (200, {"outputs": [3.0, 20.0]})
    signed = {"signature_name": "serving_default", "instances": ROWS}
    assert ask(app, PREDICT, signed) == (200, {"predictions": [3.0, 20.0]})


def test_integers_are_numbers_and_b64_is_text(app: HttpApp) -> None:
    encoded = {"b64": base64.b64encode(b"a").decode()}
    assert ask(app, PREDICT, {"instances": [{"x": 1, "w": encoded}]}) == (200, {"predictions": [3.0]})


def test_status(app: HttpApp) -> None:
    expected = {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    for path in ("", "/versions/1", "/labels/stable"):
        assert ask(app, f"/v1/models/toy{path}", method="GET") == (200, expected)
    for path in ("toyy", "toy/versions/2", "toy/labels/canary"):
        status, answer = ask(app, f"/v1/models/{path}", method="GET")
        assert status == 404
        assert answer.keys() == {"error"}


def test_metadata(app: HttpApp) -> None:
    status, answer = ask(app, "/v1/models/toy/metadata", method="GET")
    assert status == 200
    assert answer["model_spec"] == {"name": "toy", "signature_name": "", "version": "1"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    shape = {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    assert signature["inputs"]["x"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": shape,
        "name": "serving_default_x:0",
    }
    assert signature["inputs"]["w"]["dtype"] == "DT_STRING"
    assert signature["outputs"].keys() == {"prediction"}
    assert signature["method_name"] == "tensorflow/serving/predict"


BAD: dict[str, tuple[Any, str]] = {
    "neither": ({}, "got neither"),
    "both": ({"instances": ROWS, "inputs": {}}, "got both"),
    "unknown key": ({"instance": ROWS}, "unknown key 'instance'"),
    "unknown signature": ({"signature_name": "other", "instances": ROWS}, "not found"),
    "no instances": ({"instances": []}, "at least one row"),
    "instances an object": ({"instances": {"x": 1}}, "must be a list"),
    "instance a number": ({"instances": [1, 2]}, "instance 0 must be an object"),
    "second instance a list": ({"instances": [ROWS[0], []]}, "instance 1 must be an object"),
    "different keys": ({"instances": [ROWS[0], {"x": 1.0}]}, "instance 1 does not have the same inputs"),
    "inputs a list": ({"inputs": [1]}, "must be an object"),
    "column a number": ({"inputs": {"x": 1.0, "w": ["a"]}}, "input 'x' must be a list"),
    "value an object": ({"instances": [{"x": {"y": 1}, "w": "a"}]}, "expected float32, got dict"),
    "b64 of nothing": ({"instances": [{"x": 1.0, "w": {"b64": "?"}}]}, "is not base64"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_bodies(app: HttpApp, case: str) -> None:
    body, words = BAD[case]
    status, answer = ask(app, PREDICT, body)
    assert status == 400
    assert answer.keys() == {"error"}
    assert words in answer["error"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/"),
        ("GET", "/v1/models/toy/versions"),
        ("GET", "/v1/models/toy/versions/x"),
        ("POST", "/v1/models/toy/metadata:predict"),
        ("POST", "/v1/models/toy:explain"),
    ],
)
def test_malformed_paths(app: HttpApp, method: str, path: str) -> None:
    status, answer = ask(app, path, {"instances": ROWS}, method=method)
    assert status == 400
    assert answer["error"].startswith(f"Malformed request: {method} {path}")


EXAMPLES = {"examples": [{"x": 1.0, "w": "a"}, {"x": [0.0], "w": ["zz"]}]}


def test_classify_gives_pairs_of_class_and_chance(app: HttpApp) -> None:
    status, answer = ask(app, "/v1/models/chance:classify", EXAMPLES)
    assert status == 200
    chance = 1 / (1 + np.exp(-3.0))
    assert answer["results"][0] == [["0", pytest.approx(1 - chance)], ["1", pytest.approx(chance)]]
    assert answer["results"][1] == [["0", 0.5], ["1", 0.5]]
    status, answer = ask(app, "/v1/models/kinds/labels/stable:classify", EXAMPLES)
    assert status == 200
    first, second = answer["results"]
    assert [label for label, _ in first] == ["low", "mid", "high"]
    assert sum(chance for _, chance in first) == pytest.approx(1)
    assert (max(first, key=itemgetter(1))[0], max(second, key=itemgetter(1))[0]) == ("high", "low")


def test_regress_gives_a_value_an_example(app: HttpApp) -> None:
    assert ask(app, "/v1/models/toy/versions/1:regress", EXAMPLES) == (200, {"results": [3.0, 0.0]})
    shared = {"context": {"w": "b"}, "examples": [{"x": 1.0}, {"x": 2.0, "w": "a"}]}
    assert ask(app, "/v1/models/toy:regress", shared) == (200, {"results": [4.0, 5.0]})
    vector = {"examples": [{"x": [1.0, 2.0, 3.0]}]}
    assert ask(app, "/v1/models/vector:regress", vector) == (200, {"results": [12.0]})
    status, answer = ask(app, "/v1/models/chance:regress", EXAMPLES)
    assert (status, answer["results"][1]) == (200, 0.5)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("toy:classify", EXAMPLES, "is no classifier: its task is regression"),
        ("kinds:regress", EXAMPLES, "use :classify"),
        ("chance:classify", {"instances": ROWS}, "unknown key 'instances'; have: examples, context"),
        ("chance:classify", {}, "needs 'examples', got nothing"),
        ("chance:classify", {"examples": []}, "'examples' must be a list of at least one row"),
        ("chance:classify", {"examples": [1]}, "example 0 must be an object"),
        ("chance:classify", {"examples": [{"x": [1.0, 2.0], "w": "a"}]}, "expected float32, got list"),
        ("toy:regress", {"examples": [{"x": 1.0}], "context": [1]}, "'context' must be an object"),
    ],
)
def test_bad_examples(app: HttpApp, path: str, body: Any, words: str) -> None:
    status, answer = ask(app, f"/v1/models/{path}", body)
    assert status == 400
    assert words in answer["error"]


def test_a_lone_input_needs_no_name(app: HttpApp) -> None:
    vectors = [[float(i), 0.0, 1.0] for i in range(20)]
    right = [2 * (i + 1.0) for i in range(20)]
    path = "/v1/models/vector:predict"
    assert ask(app, path, {"instances": vectors}) == (200, {"predictions": right})
    assert ask(app, path, {"instances": [{"x": row} for row in vectors]}) == (200, {"predictions": right})
    assert ask(app, path, {"inputs": vectors}) == (200, {"outputs": right})
    assert ask(app, path, {"inputs": {"x": vectors}}) == (200, {"outputs": right})


@pytest.mark.parametrize("rows", [1, 7, 200])
def test_many_rows_are_judged_as_few_are(app: HttpApp, rows: int) -> None:
    """Beyond a few values a column is converted at once; what is refused, and said, must not change."""
    for value, words in (
        (True, "row 0: expected float32, got bool True"),
        ("1", "row 0: expected float32, got str '1'"),
        (1e39, "row 0: 1e+39 is outside the range of float32"),
        (10**400, "JSON Parse error"),
    ):
        body = {"inputs": {"x": [value] + [0.5] * (rows - 1), "w": ["a"] * rows}}
        status, answer = ask(app, PREDICT, body)
        assert (status, words in answer["error"]) == (400, True), answer
    hidden = {"inputs": {"x": [0.0, 1.0] + [0.5] * rows + [True], "w": ["a"] * (rows + 3)}}
    status, answer = ask(app, PREDICT, hidden)
    assert (status, f"row {rows + 2}: expected float32, got bool" in answer["error"]) == (400, True), answer
    mixed = {"inputs": {"x": [None, 3] + [0.5] * rows, "w": ["a", "b"] + [None] * rows}}
    assert ask(app, PREDICT, mixed) == (200, {"outputs": [21.0, 8.0] + [1.0] * rows})
