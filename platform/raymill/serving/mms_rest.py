"""MXNet Model Server's HTTP API: `/ping`, `/predictions`, `/invocations`, `/models` to manage, `OPTIONS /`.

https://github.com/awslabs/multi-model-server/blob/master/docs/rest_api.md. Its models take what their
handlers take; ours take a row, an object of input name to value, and answer with its prediction, or a
list of rows, and answer with a list. Models are those of the repository: registering one loads it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Set
from functools import lru_cache
from typing import Any, ClassVar
from urllib.parse import parse_qs

import numpy as np
import orjson

from raymill.errors import InvalidInput, NotFound
from raymill.serving import http_body, mms_openapi, ndjson, openapi
from raymill.serving.http import PATHS, Request, Response, json_response
from raymill.serving.http_body import HttpError
from raymill.serving.plane import Plane
from raymill.serving.served import ServedVersion, version_or_label
from raymill.serving.spec import ModelSpec
from raymill.serving.tfserving_json import from_rows, ready
from raymill.tensors import Signature

TYPES = {
    400: "BadRequestException", 404: "ModelNotFoundException", 405: "MethodNotAllowedException",
    409: "ConflictStatusException", 413: "RequestEntityTooLargeException",
    415: "UnsupportedMediaTypeException", 429: "TooManyRequestsException",
    500: "InternalServerException", 501: "NotImplementedException", 503: "ServiceUnavailableException",
    504: "GatewayTimeoutException",
}  # fmt: skip
PAGE = 100
_PREDICT = re.compile(
    r"^(?:/predictions/(?P<model>[^/]+)(?:/(?P<version>[^/]+))?|/models/(?P<invoked>[^/]+)/invoke)\Z"
)
_MODEL = re.compile(r"^/models/(?P<model>[^/]+)\Z")
_predict_path, _model_path = lru_cache(PATHS)(_PREDICT.match), lru_cache(PATHS)(_MODEL.match)

Wanted = str | int | None


class MmsRest:
    """Inference and management on one port."""

    name: ClassVar[str] = "mms_rest"
    roots: ClassVar[tuple[str, ...]] = ("", "ping", "predictions", "invocations", "models")
    kinds: ClassVar[Set[bytes]] = frozenset({http_body.FORM})

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    async def handle(self, request: Request) -> Response:
        if request.path == "/":
            _only(request, "OPTIONS")
            return json_response(openapi.document([self]))
        if request.path == "/ping":
            _only(request, "GET")
            ready = self._plane.ready()
            return json_response({"status": "Healthy" if ready else "Loading"}, 200 if ready else 503)
        if request.path == "/models":
            return await self._models(request)
        managed = _model_path(request.path)
        if managed:
            return await self._model(request, managed["model"])
        model, wanted = self._asked(request)
        if request.method == "OPTIONS":
            return json_response(openapi.document([self]))
        return await self._predict(model, wanted, request)

    def lines(self, request: Request) -> ndjson.Lines:
        """A row a line, its prediction a line."""
        model, wanted = self._asked(request)
        number, _ = self._plane.manifest(model, wanted)
        request.model, request.version = model, str(number)

        async def predict(rows: list[Any]) -> list[Any]:
            return list(await self._scores(model, wanted, rows))

        return ndjson.by_row(predict)

    def openapi(self) -> dict[str, Any]:
        return mms_openapi.paths(self._plane)

    def error(self, status: int, message: str) -> Response:
        kind = TYPES.get(status, "BadRequestException")
        return json_response({"code": status, "type": kind, "message": message}, status)

    def _asked(self, request: Request) -> tuple[str, Wanted]:
        """Return model and version of an inference path."""
        match = _predict_path(request.path)
        if match is None and request.path != "/invocations":
            raise NotFound(
                f"nothing at {request.path:.200}; "
                "have: /ping, /predictions/MODEL, /invocations, /models, /models/MODEL"
            )
        _only(request, "POST", "PUT", "OPTIONS")
        if match is None:
            return self._lone(request), None
        return match["model"] or match["invoked"], version_or_label(match["version"])

    def _lone(self, request: Request) -> str:
        """Return the model of `/invocations`: that of the query, or the only one."""
        named, models = _query(request).get("model_name"), self._plane.models()
        if named is None and len(models) != 1:
            raise InvalidInput(
                f"{len(models)} models are served; say which: /invocations?model_name=..., "
                f"one of {', '.join(models)}"
            )
        return named or models[0]

    async def _predict(self, model: str, wanted: Wanted, request: Request) -> Response:
        number, manifest = self._plane.manifest(model, wanted)  # an unknown model is 404, whatever the body
        request.model, request.version = model, str(number)
        form = http_body.media_type(request.headers) == http_body.FORM
        body = http_body.file_of_form(request.headers, request.body) if form else request.body
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise InvalidInput(f"JSON Parse error: {error}") from error
        one = not isinstance(document, list) or _is_vector(document, manifest.signature)
        scores = await self._scores(model, wanted, [document] if one else document)
        return json_response(scores[0] if one else scores)

    async def _scores(self, model: str, wanted: Wanted, rows: list[Any]) -> np.ndarray:
        _, manifest = self._plane.manifest(model, wanted)
        columns = ready(from_rows(rows, manifest.signature, "row"), manifest.signature)
        return next(iter((await self._plane.infer(model, columns, wanted)).outputs.values()))

    async def _models(self, request: Request) -> Response:
        _only(request, "GET", "POST")
        query = _query(request)
        if request.method == "POST":
            model = query.get("model_name") or query.get("url")
            if not model:
                raise InvalidInput("name the model of the repository to load: POST /models?url=MODEL")
            await self._plane.load_model(model)
            return json_response({"status": f'Model "{model}" registered'})
        first = _size(query.get("next_page_token", "0"), "next_page_token")
        limit = _size(query.get("limit", str(PAGE)), "limit", 1)
        names = self._plane.models()
        page = [{"modelName": name, "modelUrl": name} for name in names[first : first + limit]]
        after = {"nextPageToken": str(first + limit)} if first + limit < len(names) else {}
        return json_response({**after, "models": page})

    async def _model(self, request: Request, model: str) -> Response:
        if request.method == "PUT":
            scaled = "workers follow the load, by `autoscaling` in the serve spec, not this call"
            raise HttpError(405, scaled, ((b"allow", b"GET, DELETE, OPTIONS"),))
        _only(request, "GET", "DELETE", "OPTIONS")
        statuses = self._plane.status(model)
        if request.method == "DELETE":
            await self._plane.unload_model(model)
            return json_response({"status": f'Model "{model}" unregistered'})
        if request.method == "OPTIONS":
            return json_response(openapi.document([self]))
        served = self._plane.served().get(model)
        manifest = served.versions[served.default].version.manifest if served else None
        return json_response(
            {
                "modelName": model,
                "modelVersion": str(served.default) if served else None,
                "modelUrl": model,
                "engine": manifest.flavor if manifest else None,
                "runtime": "python",
                "status": "Healthy" if served else "Unhealthy",
                "versions": [{"modelVersion": str(found.number), "state": found.state} for found in statuses],
            }
            | _workers(served.versions[served.default] if served else None, *self._plane.spec(model))
        )


def _workers(version: ServedVersion | None, spec: ModelSpec, at_start: bool) -> dict[str, Any]:
    """Return what a model's description says of workers. A replica is one; of a model's own, none is here."""
    own = spec.own.autoscaling if spec.placement == "own" else None
    return {
        "minWorkers": own.min_replicas if own else 1,
        "maxWorkers": own.max_replicas if own else 1,
        "batchSize": spec.batching.max_rows,
        "maxBatchDelay": math.ceil(spec.batching.max_wait_ms),
        "loadedAtStartup": at_start,
        "workers": [_worker(version)] if version and version.in_memory else [],
    }


def _worker(version: ServedVersion) -> dict[str, Any]:
    return {
        "id": str(os.getpid()),
        "startTime": version.loaded_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "status": "READY",
        "gpu": False,  # only a model's own replicas have any
        "memoryUsage": version.bytes,
    }


def _only(request: Request, *methods: str) -> None:
    allowed = {*methods, "HEAD"} if "GET" in methods else set(methods)
    if request.method not in allowed:
        message = f"method {request.method} is not allowed at {request.path:.200}; use {', '.join(methods)}"
        raise HttpError(405, message, ((b"allow", ", ".join(methods).encode()),))


def _query(request: Request) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(request.query.decode("latin-1")).items()}


def _size(text: str, name: str, least: int = 0) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 9 or int(text) < least:
        raise InvalidInput(f"{name} must be a number of models, {least} or more, got {text!r:.40}")
    return int(text)


def _is_vector(document: list[Any], signature: Signature) -> bool:
    """Whether a list is one row of a model whose only input is a vector."""
    lone = len(signature.inputs) == 1 and len(signature.inputs[0].shape) == 2
    return lone and bool(document) and not isinstance(document[0], list | dict)
