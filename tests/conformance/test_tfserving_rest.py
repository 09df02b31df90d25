"""TensorFlow Serving's REST API, body by body: https://www.tensorflow.org/tfx/serving/api_rest."""

from __future__ import annotations

import base64
from operator import itemgetter
from typing import Any

import numpy as np
import pytest
from asgi import ask, send

from raymill.serving.http import HttpApp
from raymill.serving.plane import Plane
from raymill.serving.tfserving_json import from_examples
from raymill.serving.tfserving_rest import TFServingRest
from raymill.tensors import Signature, TensorSpec

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
    for text in ("YQ", "Y Q\n=\t=", " YQ "):
        body = {"instances": [{"x": 1, "w": {"b64": text}}]}
        assert ask(app, PREDICT, body) == (200, {"predictions": [3.0]})


def test_other_keys_mean_nothing(app: HttpApp) -> None:
    body = {"instances": ROWS, "parameters": {}, "id": "7"}
    assert ask(app, PREDICT, body) == (200, {"predictions": [3.0, 20.0]})
    extra = {"examples": [{"x": 1.0, "w": "a"}], "instances": None}
    assert ask(app, "/v1/models/toy:regress", extra) == (200, {"results": [3.0]})


@pytest.mark.parametrize("rows", [1, 2, 30])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "marked"])
def test_bare_nan_is_null_and_infinity_a_number_out_of_range(app: HttpApp, rows: int, mark: bytes) -> None:
    def columns(token: str, x: str = "0.5") -> bytes:
        words = ", ".join(['"a"'] * (rows - 1) + ['"say \\"NaN\\""'])
        return f'{{"inputs": {{"x": [{", ".join([x] * (rows - 1) + [token])}], "w": [{words}]}}}}'.encode()

    assert ask(app, PREDICT, mark + columns("1")) == (200, {"outputs": [2.0] * (rows - 1) + [2.0]})
    assert ask(app, PREDICT, mark + columns("NaN")) == (200, {"outputs": [2.0] * (rows - 1) + [20.0]})
    for token, said in (("Infinity", "inf"), ("-Infinity", "-inf")):
        status, answer = ask(app, PREDICT, mark + columns(token))
        assert (status, answer["error"]) == (
            400, f"input 'x', row {rows - 1}: {said} is outside the range of float32",
        )  # fmt: skip
    row = {"x": [1.0] * rows, "n": [1] * rows, "w": ["a"] * rows}
    for name in ("x", "n"):
        body = {**row, name: [*row[name][:-1], float("nan")]}
        status, answer = ask(app, "/v1/models/strict:predict", {"inputs": body})
        assert (status, f"input {name!r}, row {rows - 1}: nan is outside" in answer["error"]) == (400, True)


@pytest.mark.parametrize(
    "broken",
    [
        b"NaN", b"{NaN", b"[1NaN]", b'{"NaN', b'{"instances": [NaN,]}', b'{"instances": [1-Infinity]}',
        b'{"instances": NaN}', b'{"instances": ["\\ud800", NaN]}', b'{"x": 1e999, "instances": [NaN]}',
        b'{"inputs": {"x": [-NaN], "w": ["a"]}}', b"[" * 1800 + b"NaN" + b"]" * 1800, b"\xef\xbb\xbf",
    ],
)  # fmt: skip
def test_what_holds_a_bare_word_and_is_still_wrong_stays_so(app: HttpApp, broken: bytes) -> None:
    status, answer = ask(app, PREDICT, broken)
    assert (status, answer.keys()) == (400, {"error"})


def test_looking_for_bare_words_takes_linear_time(plane: Plane) -> None:
    """By the square of the length it would take many minutes."""
    app, size = HttpApp(plane, [TFServingRest(plane)], 1 << 20), 250_000
    for body in (b'NaN "' + b'\\"' * size, b"NaN" + b'"' * (size + 1), b"NaN" + b"\\" * size):
        assert ask(app, PREDICT, body)[0] == 400


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_numbers_that_are_not_finite_have_their_names_in_answers(app: HttpApp) -> None:
    columns = {"x": [3.4e38, -3.4e38, 0.1], "w": ["a", "a", "zz"]}
    rows = [{"x": x, "w": w} for x, w in zip(columns["x"], columns["w"], strict=True)]
    for key, body in (("predictions", {"instances": rows}), ("outputs", {"inputs": columns})):
        status, _, data = send(app, PREDICT, body)
        assert (status, data) == (200, f'{{"{key}":[Infinity,-Infinity,0.2]}}'.encode())
    examples = {"examples": [{"x": 3.4e38, "w": "a"}]}
    assert send(app, "/v1/models/toy:regress", examples)[2] == b'{"results":[Infinity]}'
    assert send(app, "/v1/models/kinds:classify", examples)[2].count(b"NaN") == 3


def test_words_of_paths_have_any_case_and_names_their_own(app: HttpApp) -> None:
    body = {"instances": ROWS}
    for path in (
        "/V1/Models/toy:PREDICT",
        "/v1/MODELS/toy/Versions/1:Predict",
        "/v1/models/toy/LABELS/stable:predict",
    ):
        assert ask(app, path, body) == (200, {"predictions": [3.0, 20.0]}), path
    assert ask(app, "/v1/models/toy/METADATA", method="GET")[0] == 200
    assert ask(app, "/v1/models/Toy:predict", body)[0] == 404
    assert ask(app, "/v1/models/toy/labels/Stable:predict", body)[0] == 404
    for path in ("toy/versions/\u0661:predict", "toy/versions/\u00b2:predict", "toy:cla\u017f\u017fify"):
        assert ask(app, f"/v1/models/{path}", body)[0] == 400


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
    "unknown key alone": ({"instance": ROWS}, "one of 'instances' and 'inputs', got neither"),
    "extra column": ({"inputs": {"x": [1.0], "w": ["a"], "y": [1]}}, "unknown inputs: y"),
    "extra column of a row": ({"instances": [{**ROWS[0], "y": 1}]}, "unknown inputs: y"),
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
    "b64 padded wrongly": ({"instances": [{"x": 1.0, "w": {"b64": "YQ="}}]}, "is not base64"),
    "b64 of a number": ({"instances": [{"x": 1.0, "w": {"b64": 1}}]}, "is not base64"),
    "b64 beyond ASCII": ({"instances": [{"x": 1.0, "w": {"b64": "YQ\u00a0"}}]}, "is not base64"),
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
    for absent in ({"w": "a"}, {"x": [], "w": "a"}, {"x": None, "w": ["a"]}):
        for examples in ([absent], [absent, {"x": 1.0, "w": "a"}]):
            status, answer = ask(app, "/v1/models/toy:regress", {"examples": examples})
            assert (status, answer["results"][0]) == (200, 21.0)
    vector = {"examples": [{"x": [1.0, 2.0, 3.0]}]}
    assert ask(app, "/v1/models/vector:regress", vector) == (200, {"results": [12.0]})
    status, answer = ask(app, "/v1/models/chance:regress", EXAMPLES)
    assert (status, answer["results"][1]) == (200, 0.5)


def test_features_that_are_booleans_come_as_one_and_zero_too() -> None:
    """As over gRPC, whose examples have no booleans."""
    flags = TensorSpec(name="f", dtype="bool"), TensorSpec(name="v", dtype="bool", shape=(-1, 2))
    signature = Signature(inputs=flags, outputs=())
    rows = [{"f": 1, "v": [0, 1]}, {"f": [0], "v": [True, False]}, {"f": 2, "v": [1, 2]}, {"f": 1.0, "v": 1}]
    columns = from_examples(rows, None, signature)
    assert list(map(repr, columns["f"])) == ["True", "False", "2", "1.0"]
    assert list(map(repr, columns["v"])) == ["[False, True]", "[True, False]", "[1, 2]", "True"]


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("toy:classify", EXAMPLES, "is no classifier: its task is regression"),
        ("kinds:regress", EXAMPLES, "use :classify"),
        ("chance:classify", {"instances": ROWS}, "needs 'examples', got nothing"),
        ("strict:regress", {"examples": [{"x": 1.0, "n": 1}]}, "missing inputs: w"),
        ("strict:regress", {"examples": [{"x": 1, "n": 1, "w": "a"}, {"x": 1, "n": 1}]}, "row 1: missing"),
        ("strict:regress", {"examples": [{"x": [], "n": 1, "w": "a"}]}, "expected float32, got list []"),
        ("vector:regress", {"examples": [{"x": None}]}, "expected 3 numbers, got None"),
        ("toy:regress", {"examples": [{"x": 1.0, "w": "a", "y": 1}]}, "unknown inputs: y"),
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
    for wrong in ([1, None, 3], [1, True, 3]):
        status, answer = ask(app, path, {"instances": [[1, 2, 3], wrong]})
        assert (status, "input 'x', row 1, element 1: " in answer["error"]) == (400, True), answer


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
