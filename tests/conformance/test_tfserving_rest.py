"""TensorFlow Serving's REST API, body by body: https://www.tensorflow.org/tfx/serving/api_rest."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from test_protocols import app, ask  # noqa: F401  app is a fixture

from raymill.serving.http import HttpApp

PREDICT = "/v1/models/toy:predict"
ROWS = [{"x": 1.0, "w": "a"}, {"x": None, "w": "zz"}]


def test_rows_and_columns_give_the_same(app: HttpApp) -> None:  # noqa: F811
    assert ask(app, PREDICT, {"instances": ROWS}) == (200, {"predictions": [3.0, 20.0]})
    columns = {"x": [1.0, None], "w": ["a", "zz"]}
    assert ask(app, PREDICT, {"inputs": columns}) == (200, {"outputs": [3.0, 20.0]})
    signed = {"signature_name": "serving_default", "instances": ROWS}
    assert ask(app, PREDICT, signed) == (200, {"predictions": [3.0, 20.0]})


def test_integers_are_numbers_and_b64_is_text(app: HttpApp) -> None:  # noqa: F811
    encoded = {"b64": base64.b64encode(b"a").decode()}
    assert ask(app, PREDICT, {"instances": [{"x": 1, "w": encoded}]}) == (200, {"predictions": [3.0]})


def test_status(app: HttpApp) -> None:  # noqa: F811
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


def test_metadata(app: HttpApp) -> None:  # noqa: F811
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
    "value an object": ({"instances": [{"x": {"y": 1}, "w": "a"}]}, "must not be an object"),
    "b64 of nothing": ({"instances": [{"x": 1.0, "w": {"b64": "?"}}]}, "is not base64"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_bodies(app: HttpApp, case: str) -> None:  # noqa: F811
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
        ("POST", "/v1/models/toy"),
        ("POST", "/v1/models/toy/metadata:predict"),
        ("POST", "/v1/models/toy:explain"),
    ],
)
def test_malformed_paths(app: HttpApp, method: str, path: str) -> None:  # noqa: F811
    status, answer = ask(app, path, {"instances": ROWS}, method=method)
    assert status == 400
    assert answer["error"].startswith(f"Malformed request: {method} {path}")


@pytest.mark.parametrize("verb", ["classify", "regress"])
def test_verbs_that_are_not_served_say_so(app: HttpApp, verb: str) -> None:  # noqa: F811
    status, answer = ask(app, f"/v1/models/toy:{verb}", {"examples": []})
    assert status == 501
    assert "use :predict" in answer["error"]
