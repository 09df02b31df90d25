"""MXNet Model Server's HTTP API, call by call."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import toy
from asgi import LIMIT, ask, send
from test_protocols import rows

from raymill.repo import Repository
from raymill.serving import PROTOCOLS
from raymill.serving.http import HttpApp
from raymill.serving.plane import Plane
from raymill.serving.spec import AutoscalingSpec, BatchingSpec, ModelSpec, OwnPlacement


def test_ping(app: HttpApp) -> None:
    assert ask(app, "/ping", method="GET") == (200, {"status": "Healthy"})


def test_a_row_a_list_of_rows_and_a_vector(app: HttpApp) -> None:
    given = rows(toy.ROWS)
    assert ask(app, "/predictions/toy", given[0]) == (200, 3.0)
    assert ask(app, "/predictions/toy", given) == (200, [3.0, 4.0, 20.0])
    assert ask(app, "/models/toy/invoke", given, "POST") == (200, [3.0, 4.0, 20.0])
    assert ask(app, "/predictions/vector", [1.0, 2.0, 3.0]) == (200, 12.0)
    assert ask(app, "/predictions/vector", toy.VECTORS["x"]) == (200, [12.0, 1.0])
    status, answer = ask(app, "/predictions/kinds", given[0])
    assert (status, len(answer)) == (200, 3)


def test_invocations_need_a_name_where_there_are_several(app: HttpApp) -> None:
    assert ask(app, "/invocations?model_name=toy", rows(toy.ROWS)) == (200, [3.0, 4.0, 20.0])
    status, answer = ask(app, "/invocations", rows(toy.ROWS))
    assert (status, answer["type"]) == (400, "BadRequestException")
    assert "say which" in answer["message"]


def test_models_in_pages(app: HttpApp) -> None:
    names, token = [], "0"
    while token:
        status, answer = ask(app, f"/models?limit=2&next_page_token={token}", method="GET")
        assert status == 200
        names += [model["modelName"] for model in answer["models"]]
        token = answer.get("nextPageToken", "")
    assert names == ["chance", "kinds", "strict", "toy", "vector"]
    for wrong in ("limit=x", "limit=0", "limit=-1", "limit=%C2%B2", "next_page_token=%D9%A1"):
        assert ask(app, f"/models?{wrong}", method="GET")[0] == 400, wrong


def test_a_description_tells_of_workers(tmp_path: Path) -> None:
    repository = Repository(str(tmp_path / "models"))
    toy.publish_kinds(repository, tmp_path / "staged")
    batching = BatchingSpec(max_rows=64, max_wait_ms=2.5)
    own = OwnPlacement(autoscaling=AutoscalingSpec(min_replicas=0, max_replicas=5))
    models = {"toy": ModelSpec(batching=batching), "strict": ModelSpec(placement="own", own=own)}

    async def never(*_: Any) -> Any:
        raise NotImplementedError

    plane = Plane(repository, models, remote={"strict": never})
    before = datetime.now(UTC).replace(microsecond=0)
    plane.load()
    app = HttpApp(plane, [PROTOCOLS.load("mms_rest")(plane)], LIMIT)
    _, shared = ask(app, "/models/toy", method="GET")
    assert [shared[key] for key in ("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay")] == [
        1,
        1,
        64,
        3,
    ]
    (worker,) = shared["workers"]
    assert before <= datetime.fromisoformat(worker.pop("startTime")) <= datetime.now(UTC)
    assert worker.pop("memoryUsage") >= 0
    assert worker == {"id": str(os.getpid()), "status": "READY", "gpu": False}
    _, apart = ask(app, "/models/strict", method="GET")
    assert [apart[key] for key in ("minWorkers", "maxWorkers", "workers")] == [0, 5, []]
    assert (shared["loadedAtStartup"], apart["loadedAtStartup"]) == (True, True)
    asyncio.run(plane.replace({"toy": ("stable",), "vector": ("stable",)}))
    assert ask(app, "/models/vector", method="GET")[1]["loadedAtStartup"] is False
    assert ask(app, "/models/toy", method="DELETE")[0] == 200
    assert ask(app, "/models/toy", method="GET")[1]["workers"] == []


def test_describe_unregister_register(app: HttpApp) -> None:
    status, answer = ask(app, "/models/strict", method="GET")
    assert (status, answer["modelName"], answer["modelVersion"]) == (200, "strict", "1")
    assert answer["status"] == "Healthy"
    try:
        said = {"status": 'Model "strict" unregistered'}
        assert ask(app, "/models/strict", method="DELETE") == (200, said)
        status, answer = ask(app, "/predictions/strict", rows(toy.STRICT))
        assert (status, answer["type"]) == (404, "ModelNotFoundException")
        assert ask(app, "/models/strict", method="GET")[1]["status"] == "Unhealthy"
    finally:
        said = {"status": 'Model "strict" registered'}
        assert ask(app, "/models?url=strict", method="POST") == (200, said)
    assert ask(app, "/predictions/strict", rows(toy.STRICT))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/models/tyo", 404, "ModelNotFoundException"),
        ("DELETE", "/models/tyo", 404, "ModelNotFoundException"),
        ("POST", "/models?url=tyo", 404, "ModelNotFoundException"),
        ("POST", "/models", 400, "BadRequestException"),
        ("PUT", "/models/toy?min_worker=2", 405, "MethodNotAllowedException"),
        ("PATCH", "/models/toy", 405, "MethodNotAllowedException"),
        ("POST", "/ping", 405, "MethodNotAllowedException"),
        ("POST", "/", 405, "MethodNotAllowedException"),
        ("POST", "/predictions", 404, "ModelNotFoundException"),
        ("POST", "/invocations?model_name=tyo", 404, "ModelNotFoundException"),
        ("POST", "/predictions/toy/\u00b2", 404, "ModelNotFoundException"),
    ],
)
def test_refusals(app: HttpApp, method: str, path: str, status: int, kind: str) -> None:
    code, answer = ask(app, path, b"" if method != "PATCH" else {}, method=method)
    assert (code, answer["code"], answer["type"]) == (status, status, kind)


@pytest.mark.parametrize("path", ["/", "/predictions/toy", "/models/toy"])
def test_options_describe_the_api(app: HttpApp, path: str) -> None:
    status, answer = ask(app, path, method="OPTIONS")
    assert (status, answer["openapi"][:2]) == (200, "3.")
    assert "/predictions/toy" in answer["paths"]
    assert not any(path.startswith("/v1") for path in answer["paths"])


def test_405_names_what_is_allowed(app: HttpApp) -> None:
    _, headers, _ = send(app, "/predictions/toy", method="GET")
    assert headers["allow"] == "POST, PUT, OPTIONS"
    answered: Any = send(app, "/models", method="HEAD")
    assert (answered[0], answered[2]) == (200, b"")
