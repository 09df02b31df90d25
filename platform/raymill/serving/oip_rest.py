"""The Open Inference Protocol over HTTP: `/v2/...`, with the binary, repository and statistics extensions.

https://github.com/kserve/open-inference-protocol; the extensions are Triton's:
https://github.com/triton-inference-server/server/tree/main/docs/protocol. Where the text and the
clients differ (`/v2` or `/v2/`, a body or none), all of them are answered. A version may be a label.
"""

from __future__ import annotations

import re
from collections.abc import Set
from functools import lru_cache
from typing import Any, ClassVar

import orjson

import raymill
from raymill.errors import InvalidInput, NotFound, RaymillError
from raymill.serving import ndjson, oip_openapi, oip_tensors
from raymill.serving.http import PATHS, Header, Request, Response, json_response
from raymill.serving.http_body import HttpError
from raymill.serving.oip_config import model_config
from raymill.serving.oip_forms import Forms
from raymill.serving.oip_parameters import parameters, refuse_overrides
from raymill.serving.plane import Plane
from raymill.serving.served import version_or_label
from raymill.serving.statistics import ModelStatistics
from raymill.tensors import OIP_DTYPES, TensorSpec

EXTENSIONS = ("model_repository", "model_repository(unload_dependents)", "statistics", "binary_tensor_data",
              "model_configuration")  # fmt: skip
_MODEL = re.compile(
    r"^/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<what>[a-z]+))?/?\Z"
)
_model_path = lru_cache(PATHS)(_MODEL.match)
_SERVER = ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models", "/v2/models/stats")
_BINARY: Header = (b"content-type", b"application/octet-stream")
_REPOSITORY = re.compile(r"^/v2/repository/models/(?P<model>[^/]+)/(?P<what>load|unload)/?\Z")

Wanted = str | int | None


class OipRest:
    """Metadata, health, infer; model repository, statistics and configuration."""

    name: ClassVar[str] = "oip_rest"
    roots: ClassVar[tuple[str, ...]] = ("v2",)
    kinds: ClassVar[Set[bytes]] = frozenset()

    def __init__(self, plane: Plane) -> None:
        self._plane, self._forms = plane, Forms()

    async def handle(self, request: Request) -> Response:
        match = _model_path(request.path)
        if match and (match["model"], match["version"]) == ("stats", None):
            match = None
        if match:
            model, wanted, what = match["model"], version_or_label(match["version"]), match["what"]
            if what != "infer":
                return self._about(request, model, wanted, what)
            _only(request, "POST")
            return await self._infer(model, wanted, request)
        path = request.path.rstrip("/")
        if path.startswith("/v2/repository"):
            return await self._repository(request, path)
        if path not in _SERVER:
            have = "/v2, /v2/health/..., /v2/models/..., /v2/repository/..."
            raise NotFound(f"nothing at {path:.200}; have: {have}")
        _only(request, "GET")
        if path == "/v2":
            return _plain({"name": "raymill", "version": raymill.__version__, "extensions": EXTENSIONS})
        if path == "/v2/health/live":
            return _plain({"live": True})
        if path == "/v2/health/ready":
            ready = self._plane.ready()
            return _plain({"ready": ready}, 200 if ready else 503)
        if path == "/v2/models":
            return _plain({"models": self._plane.models()})
        return _plain(self._statistics(None, None))

    def lines(self, request: Request) -> ndjson.Lines:
        """A whole infer request a line, its answer a line."""
        match = _model_path(request.path)
        if match is None or match["what"] != "infer":
            raise NotFound("lines are answered by /v2/models/MODEL/infer alone; post them there")
        model, wanted = match["model"], version_or_label(match["version"])
        number, _ = self._plane.manifest(model, wanted)
        request.model, request.version = model, str(number)

        async def answer(lines: list[bytes]) -> list[bytes]:
            answers = []
            for line in lines:
                try:
                    answers.append(await self._line(model, wanted, line))
                except RaymillError as error:
                    answers.append(orjson.dumps({"error": str(error)}))
            return answers

        return answer

    def openapi(self) -> dict[str, Any]:
        return oip_openapi.paths(self._plane)

    def error(self, status: int, message: str) -> Response:
        return _plain({"error": message}, status)

    def _about(self, request: Request, model: str, wanted: Wanted, what: str | None) -> Response:
        if what not in (None, "ready", "stats", "config"):
            raise NotFound(f"nothing at {request.path:.200}; have: infer, ready, stats, config")
        _only(request, "GET")
        if what == "ready":
            self._plane.manifest(model, wanted)  # raises where nothing answers
            return _plain({"name": model, "ready": True})
        if what is None:
            return _plain(self._metadata(model, wanted))
        if what == "stats":
            return _plain(self._statistics(model, wanted))
        number, manifest = self._plane.manifest(model, wanted)
        return _plain(model_config(model, number, manifest))

    async def _infer(self, model: str, wanted: Wanted, request: Request) -> Response:
        number, manifest = self._plane.manifest(model, wanted)  # an unknown model is 404, whatever the body
        request.model, request.version = model, str(number)
        header = request.headers.get(oip_tensors.LENGTH_HEADER)
        form, columns = self._forms.read(model, number, request.body, header, manifest.signature)
        said, data = form.answer(model, await self._plane.infer(model, columns, wanted))
        if not data:
            return Response(200, said)
        length = (oip_tensors.LENGTH_HEADER, b"%d" % len(said))
        return Response(200, b"".join([said, *data]), (_BINARY, length))

    async def _line(self, model: str, wanted: Wanted, line: bytes) -> bytes:
        number, manifest = self._plane.manifest(model, wanted)  # a version may have taken over meanwhile
        form, columns = self._forms.read(model, number, line, None, manifest.signature)
        if any(is_binary for _, is_binary in form.asked):
            raise InvalidInput("binary outputs do not fit in a line; ask for them one request at a time")
        return form.answer(model, await self._plane.infer(model, columns, wanted))[0]

    def _metadata(self, model: str, wanted: Wanted) -> dict[str, Any]:
        number, manifest = self._plane.manifest(model, wanted)
        served = self._plane.served().get(model)  # none where it was just unloaded
        versions = sorted(served.versions) if served and wanted is None else [number]
        return {
            "name": model,
            "versions": [str(version) for version in versions],
            "platform": f"raymill_{manifest.flavor}",
            "inputs": [_described(spec) for spec in manifest.signature.inputs],
            "outputs": [_described(spec) for spec in manifest.signature.outputs],
        }

    def _statistics(self, model: str | None, wanted: Wanted) -> dict[str, Any]:
        return {"model_stats": [_statistics(found) for found in self._plane.statistics(model, wanted)]}

    async def _repository(self, request: Request, path: str) -> Response:
        match = _REPOSITORY.match(path)
        if match is None and path != "/v2/repository/index":
            raise NotFound(f"nothing at {path:.200}; have: index, models/MODEL/load, models/MODEL/unload")
        _only(request, "POST")
        body = _body(request)
        if match is None:
            ready_only = body.get("ready")
            return _plain(
                [
                    {"name": entry.name, "state": entry.state, "reason": entry.reason}
                    | ({} if entry.version is None else {"version": str(entry.version)})
                    for entry in self._plane.index()
                    if entry.state == "READY" or not ready_only
                ]
            )
        if match["what"] == "load":
            refuse_overrides(name for name, value in parameters(body).items() if value is not None)
            await self._plane.load_model(match["model"])
        else:
            await self._plane.unload_model(match["model"])
        return _plain({"name": match["model"], match["what"]: True})


def _plain(document: Any, status: int = 200) -> Response:
    """Return `document` as JSON that is never packed: Triton's asyncio client accepts gzip, and reads it in
    the answers to `infer` alone."""
    response = json_response(document, status)
    response.may_be_packed = False
    return response


def _body(request: Request) -> dict[str, Any]:
    """Return the object of a body that may be empty."""
    document = oip_tensors.split(request.body, len(request.body))[0] if request.body.strip() else {}
    parameters(document)
    unknown = document.keys() - {"ready", "parameters"}
    if unknown:
        raise InvalidInput(f"unknown key {min(unknown)!r:.60}; have: ready, parameters")
    if not isinstance(document.get("ready"), bool | None):
        raise InvalidInput(f"'ready' must be true or false, got {document['ready']!r:.60}")
    return document


def _only(request: Request, method: str) -> None:
    if request.method != method and (request.method, method) != ("HEAD", "GET"):
        message = f"method {request.method} is not allowed at {request.path:.200}; use {method}"
        raise HttpError(405, message, ((b"allow", method.encode()),))


def _described(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": OIP_DTYPES[spec.dtype], "shape": spec.shape}


def _statistics(found: ModelStatistics) -> dict[str, Any]:
    return {
        "name": found.model,
        "version": str(found.version),
        "last_inference": found.last_inference_ms,
        "inference_count": found.inference_count,
        "execution_count": found.execution_count,
        "inference_stats": {
            phase: {"count": duration.count, "ns": duration.ns} for phase, duration in found.durations.items()
        },
        "batch_stats": [],
    }
