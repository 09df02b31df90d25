"""The Open Inference Protocol over HTTP, call by call, with Triton's extensions."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from asgi import LIMIT, ask, send
from test_protocols import DIALECTS

from raymill.features import Encoder
from raymill.repo import Repository
from raymill.serving import PROTOCOLS
from raymill.serving.http import HttpApp
from raymill.serving.oip_forms import KEPT, Forms
from raymill.serving.plane import Plane
from raymill.serving.spec import ModelSpec

INFER = "/v2/models/toy/infer"
LENGTH = "inference-header-content-length"


def texts(*values: str) -> bytes:
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in values)


def binary(tensors: list[tuple[str, str, list[int], bytes]], **request: Any) -> tuple[bytes, dict[str, str]]:
    """Return the body and headers of a request all of whose inputs are binary."""
    described = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        for name, kind, shape, data in tensors
    ]
    head = json.dumps({"inputs": described, **request}).encode()
    return b"".join([head, *(data for *_, data in tensors)]), {LENGTH: str(len(head))}


X = np.array([1.0, 2.0, np.nan], np.float32).tobytes()
ROWS = [("x", "FP32", [3], X), ("w", "BYTES", [3], texts("a", "é", "zz"))]


def test_binary_tensors_in_and_json_out(app: HttpApp) -> None:
    body, headers = binary(ROWS, id="7")
    status, answer = ask(app, INFER, body, headers=headers, parts=3)
    assert (status, answer["id"], answer["model_name"], answer["model_version"]) == (200, "7", "toy", "1")
    assert answer["outputs"] == [
        {"name": "prediction", "datatype": "FP32", "shape": [3], "data": [3.0, 4.0, 20.0]}
    ]


@pytest.mark.parametrize(
    "asks",
    [
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": "prediction", "parameters": {"binary_data": True}}]},
    ],
)
def test_binary_tensors_out(app: HttpApp, asks: dict[str, Any]) -> None:
    body, headers = binary(ROWS, **asks)
    status, answered, data = send(app, INFER, body, headers=headers)
    assert (status, answered["content-type"]) == (200, "application/octet-stream")
    head = json.loads(data[: int(answered[LENGTH])])
    assert head["outputs"][0] == {
        "name": "prediction", "datatype": "FP32", "shape": [3], "parameters": {"binary_data_size": 12},
    }  # fmt: skip
    assert np.frombuffer(data[int(answered[LENGTH]) :], np.float32).tolist() == [3.0, 4.0, 20.0]


def test_null_is_what_is_not_there(app: HttpApp) -> None:
    """Clients that write their models of requests out whole have null for what they did not set."""
    body = DIALECTS["oip_rest"].body({"x": [1.0], "w": ["a"]})
    body |= {"id": None, "parameters": None, "outputs": None}
    for tensor in body["inputs"]:
        tensor["parameters"] = None
    status, answer = ask(app, INFER, body)
    assert (status, "id" in answer, answer["outputs"][0]["data"]) == (200, False, [3.0])
    body["outputs"] = [{"name": "prediction", "parameters": None}]
    assert ask(app, INFER, body)[0] == 200
    tensors, headers = binary(ROWS, id=None, parameters={"binary_data_output": None})
    for _ in range(2):  # new, and known again
        status, answer = ask(app, INFER, tensors, headers=headers)
        assert (status, "id" in answer, answer["outputs"][0]["data"]) == (200, False, [3.0, 4.0, 20.0])
    assert ask(app, "/v2/repository/index", {"ready": None})[0] == 200
    for parameters in (None, {"config": None}, {"unload_dependents": None}):
        assert ask(app, "/v2/repository/models/toy/load", {"parameters": parameters})[0] == 200


@pytest.mark.parametrize("model", ["vector", "text"])
def test_a_body_without_json_is_the_only_input(app: HttpApp, tmp_path: Path, model: str) -> None:
    if model == "text":
        repository = Repository(str(tmp_path / "models"))
        text = Encoder(columns=(toy.encoder().columns[1],), target="y", task="regression")
        staged = toy.stage(tmp_path / "staged", fitted=text, rows={"w": ["a"]})
        repository.publish("text", staged, toy.manifest("text", fitted=text), lambda _: None)
        plane = Plane(repository, {"text": ModelSpec(serve=("latest",))})
        plane.load()
        app = HttpApp(plane, [PROTOCOLS.load("oip_rest")(plane)], LIMIT)
    body, right = (
        (b"b", [2.0]) if model == "text" else (np.array(toy.VECTORS["x"], "<f4").tobytes(), [12.0, 1.0])
    )
    status, answered, data = send(app, f"/v2/models/{model}/infer", body, headers={LENGTH: "0"})
    assert (status, answered["content-type"]) == (200, "application/octet-stream")
    head, scores = data[: int(answered[LENGTH])], data[int(answered[LENGTH]) :]
    assert json.loads(head)["outputs"][0]["shape"] == [len(right)]
    assert np.frombuffer(scores, "<f4").tolist() == right


@pytest.mark.parametrize(
    ("model", "body", "words"),
    [
        ("toy", bytes(8), "models of one input"),
        ("vector", bytes(16), "has 16 bytes, a row of it makes 12"),
        ("vector", b"", "has 0 bytes, a row of it makes 12"),
        ("vector", np.array([1, np.nan, 1], "<f4").tobytes(), "row 0, element 1: nan is outside"),
    ],
)
def test_bodies_without_json_that_do_not_fit(app: HttpApp, model: str, body: bytes, words: str) -> None:
    status, answer = ask(app, f"/v2/models/{model}/infer", body, headers={LENGTH: "0"})
    assert (status, words in answer["error"]) == (400, True), answer


def test_json_and_binary_tensors_mix_and_shapes_may_be_columns(app: HttpApp) -> None:
    described = [
        {"name": "w", "datatype": "BYTES", "shape": [2, 1], "data": [["a"], ["b"]]},
        {"name": "x", "datatype": "FP32", "shape": [2, 1], "parameters": {"binary_data_size": 8}},
    ]
    head = json.dumps({"inputs": described}).encode()
    body = head + np.array([1, 2], np.float32).tobytes()
    status, answer = ask(app, INFER, body, headers={LENGTH: str(len(head))})
    assert (status, answer["outputs"][0]["data"]) == (200, [3.0, 6.0])


@pytest.mark.parametrize("data", [toy.VECTORS["x"], [1.0, 2.0, 3.0, 0.5, 0.0, 0.0]])
def test_vectors_nested_or_flat(app: HttpApp, data: list[Any]) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": data}
    status, answer = ask(app, "/v2/models/vector/infer", {"inputs": [tensor]})
    assert (status, answer["outputs"][0]["data"]) == (200, [12.0, 1.0])
    raw = np.asarray(toy.VECTORS["x"], np.float32).tobytes()
    body, headers = binary([("x", "FP32", [2, 3], raw)])
    assert ask(app, "/v2/models/vector/infer", body, headers=headers)[1]["outputs"] == answer["outputs"]


def test_the_form_of_a_request_is_known_again_and_its_values_are_not(app: HttpApp) -> None:
    """The same JSON before other tensors, of this size and of others, to this model and to another."""
    asks = {"parameters": {"binary_data_output": True}}

    def infer(model: str, x: list[float], w: bytes, order: int = 1, **more: Any) -> tuple[int, Any]:
        rows = [("x", "FP32", [3], np.array(x, np.float32).tobytes()), ("w", "BYTES", [3], w)]
        body, headers = binary(rows[::order], **(asks | more))
        status, answered, data = send(app, f"/v2/models/{model}/infer", body, headers=headers)
        if status != 200:
            return status, json.loads(data)["error"]
        size = int(answered[LENGTH])
        head = json.loads(data[:size])
        return head.get("id", head["model_name"]), np.frombuffer(data[size:], np.float32).tolist()

    words = texts("a", "b", "b")
    assert infer("toy", [1, 2, 3], words) == ("toy", [3, 6, 8])
    assert infer("toy", [7, 8, np.nan], texts("b", "b", "a")) == ("toy", [16, 18, 21])
    for x, scores in ([1, 2, 3], [3, 6, 8]), ([2, 2, 3], [5, 6, 8]):  # numbers behind the words
        assert infer("toy", x, words, -1) == ("toy", scores)
    assert infer("toy", [1, 2, 3], words, id="1") == ("1", [3, 6, 8])
    assert infer("toy", [2, 2, 3], words, id="2") == ("2", [5, 6, 8])
    status, error = infer("toy", [1, 2, 3], rb"\9" + words[1:])
    assert (status, "do not hold its 3 BYTES" in error) == (400, True)
    status, error = infer("strict", [1, 2, 3], words)
    assert (status, "missing" in error) == (400, True)
    for change, said in ((b"!", "1 bytes are left"), (None, "but 14 bytes are left")):
        body, headers = binary([("x", "FP32", [3], X), ("w", "BYTES", [3], words)], **asks)
        status, answer = ask(app, INFER, body[:-1] if change is None else body + change, headers=headers)
        assert (status, said in answer["error"]) == (400, True), answer


def test_forms_do_not_pile_up() -> None:
    signature = toy.encoder().signature()
    forms = Forms()
    for rows in (*range(1, KEPT + 50), 1, 1):
        tensors = [("x", "FP32", [rows], bytes(4 * rows)), ("w", "BYTES", [rows], texts("a") * rows)]
        body, headers = binary(tensors)
        form, columns = forms.read("toy", 1, body, headers[LENGTH].encode(), signature)
        assert len(columns["x"]) == len(columns["w"]) == rows
    assert len(forms._kept) == KEPT
    named, length = binary(tensors, id="another each time")
    assert forms.read("toy", 1, named, length[LENGTH].encode(), signature)[0].document["id"]
    assert forms.read("toy", 1, body, headers[LENGTH].encode(), signature)[0] is form
    assert not any("id" in found.document for found in forms._kept.values())
    other = toy.encoder().signature()  # the same version number of a model that was published anew
    assert forms.read("toy", 1, body, headers[LENGTH].encode(), other)[0] is not form


STRICT_W = ("w", "BYTES", [1], texts("a"))
STRICT_N = ("n", "INT8", [1], b"\x03")
BAD_BINARY: dict[str, tuple[list[tuple[str, str, list[int], bytes]], str]] = {
    "NaN without null policy": (
        [("x", "FP32", [1], np.array([np.nan], np.float32).tobytes()), STRICT_N, STRICT_W], "row 0: nan",
    ),
    "infinity": (
        [("x", "FP32", [1], np.array([np.inf], np.float32).tobytes()), STRICT_N, STRICT_W], "row 0: inf",
    ),
    "wrong datatype": ([("x", "FP64", [1], bytes(8)), STRICT_N, STRICT_W], "'FP64', the model takes FP32"),
    "too few bytes": ([("x", "FP32", [2], bytes(4)), STRICT_N, STRICT_W], "has 4 bytes, its shape"),
    "rank": ([("x", "FP32", [1, 2], bytes(8)), STRICT_N, STRICT_W], "has shape [1, 2], the model takes [-1]"),
    "no rows": ([("x", "FP32", [0], b""), STRICT_N, STRICT_W], "at least one row"),
    "negative rows": ([("x", "FP32", [-1], b""), STRICT_N, STRICT_W], "needs a shape"),
    "texts cut short": (
        [("x", "FP32", [1], bytes(4)), STRICT_N, ("w", "BYTES", [1], b"\x09\0\0\0a")], "hold its 1 BYTES",
    ),
    "texts too many": (
        [("x", "FP32", [1], bytes(4)), STRICT_N, ("w", "BYTES", [1], texts("a", "b"))], "hold its 1 BYTES",
    ),
    "texts of no UTF-8": (
        [("x", "FP32", [1], bytes(4)), STRICT_N, ("w", "BYTES", [1], b"\1\0\0\0\xff")], "no UTF-8",
    ),
    "twice": ([("x", "FP32", [1], bytes(4)), ("x", "FP32", [1], bytes(4))], "comes twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_BINARY)
def test_bad_binary_tensors(app: HttpApp, case: str) -> None:
    tensors, words = BAD_BINARY[case]
    body, headers = binary(tensors)
    status, answer = ask(app, "/v2/models/strict/infer", body, headers=headers)
    assert status == 400
    assert words in DIALECTS["oip_rest"].error(answer)


@pytest.mark.parametrize(
    ("more", "header", "words"),
    [
        (b"!", None, "1 bytes are left"),
        (b"", "x", "must be the JSON's length"),
        (b"", "100000", "must be the JSON's length"),
        (b"", "-1", "must be the JSON's length"),
        (b"", "1" * 5000, "must be the JSON's length"),
        (b"", "3", "JSON Parse error"),
    ],
)
def test_wrong_lengths(app: HttpApp, more: bytes, header: str | None, words: str) -> None:
    body, headers = binary(ROWS)
    status, answer = ask(app, INFER, body + more, headers={LENGTH: header} if header else headers)
    assert (status, words in answer["error"]) == (400, True), answer


GOOD = DIALECTS["oip_rest"].body(toy.ROWS)


def outputs(**parameters: Any) -> Any:
    return {**GOOD, "outputs": [{"name": "prediction", "parameters": parameters}]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"inputs": {"x": [1]}}, "'inputs' must be a list"),
        ({"inputs": [1]}, "must be an object with a name"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}, "neither 'data' nor"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1.0]}]}, "has 1 elements"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": 1.0}]}, "must be a list"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [[1.0], 2.0]}]}, "mixes lists"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": "1", "data": [1.0]}]}, "needs a shape"),
        ({"inputs": [{"name": "x", "data": [], "parameters": 1}]}, "'parameters' must be an object"),
        (
            {"inputs": [{"name": "x", "parameters": {"binary_data_size": 9}}]},
            "has binary_data_size 9, but 0 bytes are left",
        ),
        ({"inputs": [{"name": "x", "parameters": {"binary_data_size": "9"}}]}, "must be a number of bytes"),
        (
            {"inputs": [{"name": "x", "data": [], "parameters": {"shared_memory_region": "here"}}]},
            "input 'x': parameter 'shared_memory_region' is not served here",
        ),
        (
            {"inputs": [{"name": "x", "parameters": {"shared_memory_region": "here"}}]},
            "input 'x': parameter 'shared_memory_region' is not served here",
        ),
        ({**GOOD, "id": 7}, "'id' must be a string"),
        ({**GOOD, "outputs": {}}, "'outputs' must be a list"),
        ({**GOOD, "outputs": [{"name": "y"}]}, "no output 'y'; have: prediction"),
        ({**GOOD, "outputs": [{"name": "prediction"}] * 2}, "'prediction' is asked for more than once"),
        ({**GOOD, "parameters": {"binary_data_output": "false"}}, "'binary_data_output' must be true or"),
        ({**GOOD, "parameters": {"binary_data_output": 1}}, "'binary_data_output' must be true or"),
        (outputs(binary_data="true"), "parameter 'binary_data' must be true or false, got 'true'"),
        (outputs(classification=2), "output 'prediction': parameter 'classification' is not served here"),
        (outputs(shared_memory_region="here"), "parameter 'shared_memory_region' is not served here"),
    ],
)
def test_bad_json_tensors(app: HttpApp, body: Any, words: str) -> None:
    status, answer = ask(app, INFER, body)
    assert (status, words in answer["error"]) == (400, True), answer


def test_server_and_model_metadata(app: HttpApp) -> None:
    for path in ("/v2", "/v2/"):
        status, answer = ask(app, path, method="GET")
        assert (status, answer["name"]) == (200, "raymill")
        assert "binary_tensor_data" in answer["extensions"]
    for path in ("live", "ready"):
        assert ask(app, f"/v2/health/{path}", method="GET") == (200, {path: True})
    status, answer = ask(app, "/v2/models/vector", method="GET")
    assert answer == {
        "name": "vector", "versions": ["1"], "platform": "raymill_toy:ToyFlavor",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
        "outputs": [{"name": "prediction", "datatype": "FP32", "shape": [-1]}],
    }  # fmt: skip
    status, answer = ask(app, "/v2/models/vector/config", method="GET")
    assert answer["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 3]}]
    for path in ("vector", "vector/versions/1", "vector/versions/stable"):
        assert ask(app, f"/v2/models/{path}/ready", method="GET") == (200, {"name": "vector", "ready": True})
    for path in (
        "nothing",
        "models/toy/nothing",
        "models/toy/versions/9",
        "models/tyo/ready",
        "repository/x",
    ):
        status, answer = ask(app, f"/v2/{path}", method="POST" if "repository" in path else "GET")
        assert (status, answer.keys()) == (404, {"error"}), path
    for path in ("nothing", "logging", "models/toy/generate", "models/toy/trace/setting", "models/toy/x"):
        for method in ("GET", "POST", "PUT"):
            assert ask(app, f"/v2/{path}", method=method)[0] == 404, (method, path)
    for method in ("GET", "POST"):
        assert ask(app, "/v2/repository/x", method=method)[0] == 404
    assert ask(app, "/v2/models/toy/versions/\u00b2/ready", method="GET")[0] == 404
    for path in ("models/toy", "models/toy/stats", "health/ready"):
        status, headers, _ = send(app, f"/v2/{path}", b"{}", method="POST")
        assert (status, headers["allow"]) == (405, "GET")


def test_repository_index_unload_load(app: HttpApp) -> None:
    def states(**body: Any) -> dict[str, str]:
        status, answer = ask(app, "/v2/repository/index", body)
        assert status == 200
        return {entry["name"]: entry["state"] for entry in answer}

    assert states()["kinds"] == "READY"
    try:
        assert ask(app, "/v2/repository/models/kinds/unload", b"")[0] == 200
        assert states()["kinds"] == "UNAVAILABLE"
        assert "kinds" not in states(ready=True)
        assert ask(app, "/v2/models/kinds/ready", method="GET")[0] == 404
        status, answer = ask(app, "/v2/models/kinds/infer", DIALECTS["oip_rest"].body(toy.ROWS))
        assert (status, "was unloaded" in answer["error"]) == (404, True)
        assert ask(app, "/v2/health/ready", method="GET")[0] == 200
    finally:
        assert ask(app, "/v2/repository/models/kinds/load", {})[0] == 200
    assert states(ready=True)["kinds"] == "READY"
    assert ask(app, "/v2/models/kinds/infer", DIALECTS["oip_rest"].body(toy.ROWS))[0] == 200
    for what in ("load", "unload"):
        assert ask(app, f"/v2/repository/models/tyo/{what}", b"")[0] == 404
    assert ask(app, "/v2/repository/index", {"ready": 1})[0] == 400
    for given in ({"config": "{}"}, {"file:1/model.onnx": "eA=="}):
        status, answer = ask(app, "/v2/repository/models/kinds/load", {"parameters": given})
        assert (status, "is not served here: a model is loaded as it was" in answer["error"]) == (400, True)


def test_statistics_count_rows_calls_and_failures(app: HttpApp) -> None:
    def statistics(path: str) -> dict[str, Any]:
        status, answer = ask(app, path, method="GET")
        assert status == 200
        return next(found for found in answer["model_stats"] if found["name"] == "chance")

    before = statistics("/v2/models/stats")
    body = DIALECTS["oip_rest"].body(toy.ROWS)
    assert ask(app, "/v2/models/chance/infer", body)[0] == 200
    assert ask(app, "/v2/models/chance/infer", {"inputs": body["inputs"][:1]})[0] == 400
    assert ask(app, "/v2/models/chance/infer", {**body, "outputs": [{"name": "none"}]})[0] == 400
    after = statistics("/v2/models/chance/versions/1/stats")
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["last_inference"] > 0
    for name in ("success", "fail", "compute_infer", "compute_output"):
        old, new = before["inference_stats"][name], after["inference_stats"][name]
        assert (new["count"] - old["count"], new["ns"] > old["ns"]) == (1, name != "compute_output")
