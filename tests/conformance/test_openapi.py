"""OpenAPI, true to the models that are served, and the page that shows it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import toy
from asgi import LIMIT, ask, send
from test_http import made

from raymill.features import Encoder
from raymill.repo import Repository
from raymill.serving import PROTOCOLS, openapi
from raymill.serving.http import HttpApp
from raymill.serving.plane import Plane
from raymill.serving.spec import ModelSpec


def test_openapi_is_true_to_the_models_served(app: HttpApp) -> None:
    status, api = ask(app, "/openapi.json", method="GET")
    assert (status, api["openapi"]) == (200, "3.1.0")
    examples = 0
    for path, item in api["paths"].items():
        for method, operation in item.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content is None:
                continue
            validator = jsonschema.Draft202012Validator(content["schema"])
            validator.validate(content["example"])
            open_ = "/infer" in path or path.startswith("/v1/")  # where other keys mean nothing
            assert validator.is_valid({**content["example"], "unknown": 1}) == open_
            if path.endswith("/unload"):
                continue
            status, answer = ask(app, path, content["example"], method.upper())
            assert status == 200, (path, answer)
            schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
            jsonschema.validate(answer, schema)
            examples += 1
    assert examples > 40  # several ways to five models, over three protocols


def test_each_model_has_a_schema_of_its_own(app: HttpApp) -> None:
    paths = ask(app, "/openapi.json", method="GET")[1]["paths"]

    def accepts(path: str, body: Any) -> bool:
        schema = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        return jsonschema.Draft202012Validator(schema).is_valid(body)

    strict = {"x": 1.0, "n": 1, "w": "a"}
    assert accepts("/v1/models/strict:predict", {"instances": [strict]})
    assert accepts("/predictions/strict", strict)
    for wrong in ({"n": 128}, {"n": 1.5}, {"x": None}, {"x": "1"}, {"x": 1e39}, {"w": 1}, {"n": True}):
        assert not accepts("/v1/models/strict/labels/stable:predict", {"instances": [strict | wrong]}), wrong
        assert not accepts("/predictions/strict", strict | wrong), wrong
    assert accepts("/v1/models/toy:predict", {"instances": [{"x": None, "w": None}]})
    assert accepts("/v1/models/vector/versions/1:predict", {"instances": [[1, 2, 3]]})
    assert not accepts("/v1/models/vector/versions/1:predict", {"instances": [[1, 2]]})
    assert not accepts("/v1/models/toy:predict", {"instances": [{"x": 1, "w": "a"}], "inputs": {}})
    assert accepts("/v1/models/chance:classify", {"examples": [{"x": [], "w": ["a"]}, {}]})
    assert not accepts("/v1/models/strict:regress", {"examples": [{"x": [], "n": 1, "w": "a"}]})
    assert "/v1/models/toy:classify" not in paths
    assert "/v1/models/kinds:regress" not in paths


def test_openapi_tells_of_base64_and_of_lines(tmp_path: Path) -> None:
    repository = Repository(str(tmp_path / "models"))
    text = Encoder(columns=(toy.encoder().columns[1],), target="y", task="regression")
    staged = toy.stage(tmp_path / "staged", fitted=text, rows={"w": ["a"]})
    repository.publish("text", staged, toy.manifest("text", fitted=text), lambda _: None)
    plane = Plane(repository, {"text": ModelSpec(serve=("latest",))})
    plane.load()
    app = HttpApp(plane, [PROTOCOLS.load(name)(plane) for name in PROTOCOLS], LIMIT)
    paths = ask(app, "/openapi.json", method="GET")[1]["paths"]
    encoded = {"b64": "YQ=="}
    predict, invoke = "/v1/models/text:predict", "/predictions/text"
    for path, body in (
        (predict, {"instances": [encoded, "a", None]}), (predict, {"instances": [{"w": encoded}]}),
        (predict, {"inputs": [encoded]}), (predict, {"inputs": {"w": [encoded, "a"]}}),
        ("/v1/models/text:regress", {"examples": [{"w": [encoded]}]}),
        (invoke, encoded), (invoke, [encoded, "b"]), (invoke, {"w": encoded}),
    ):  # fmt: skip
        content = paths[path]["post"]["requestBody"]["content"]["application/json"]
        jsonschema.Draft202012Validator(content["schema"]).validate(body)
        assert ask(app, path, body)[0] == 200, (path, body)
    for path in (predict, invoke, "/v2/models/text/infer"):
        assert "As application/x-ndjson: a" in paths[path]["post"]["description"]
    assert "ndjson" not in paths["/v1/models/text:regress"]["post"]["description"]


def test_openapi_follows_the_models(tmp_path: Path) -> None:
    app = made(tmp_path)
    assert "/v1/models/toy:predict" in ask(app, "/openapi.json", method="GET")[1]["paths"]
    assert ask(app, "/models/toy", method="DELETE")[0] == 200
    assert "/v1/models/toy:predict" not in ask(app, "/openapi.json", method="GET")[1]["paths"]


class Loads(HTMLParser):
    """Collects what a page would fetch by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [
            value or "" for name, value in attrs if name == "src" or (name, tag) == ("href", "link")
        ]


def test_docs_need_nothing_from_elsewhere(app: HttpApp) -> None:
    status, answered, page = send(app, "/docs", method="GET")
    assert (status, answered["content-type"]) == (200, "text/html; charset=utf-8")
    loads = Loads()
    loads.feed(page.decode())
    assert loads.found == []
    assert b"http://" not in page
    assert b"https://" not in page
    assert 4_000 < len(page) < 20_000


def test_operations_of_models_whose_names_differ_by_a_sign_have_ids_of_their_own() -> None:
    class Protocol:
        def openapi(self) -> dict[str, Any]:
            get = openapi.operation("", "", "", {})
            return {f"/models/{name}": {"get": get} for name in ("a-b", "a_b", "a.b")}

    paths = openapi.document([Protocol()])["paths"]  # type: ignore[list-item]
    ids = [operation["operationId"] for item in paths.values() for operation in item.values()]
    assert ids == ["get_healthz", "get_models_a_b", "get_models_a_b_2", "get_models_a_b_3"]
