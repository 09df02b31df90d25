"""TensorFlow Serving's REST API: `/v1/models/...`, request and response bodies, errors and codes.

https://www.tensorflow.org/tfx/serving/api_rest. A TF Serving client changes its host name only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from raymill.errors import InvalidInput
from raymill.serving import ndjson, tfserving_openapi
from raymill.serving.http import PATHS, Request, Response, json_response
from raymill.serving.http_body import HttpError
from raymill.serving.plane import Plane, VersionStatus
from raymill.serving.tfserving_json import dumps, from_columns, from_examples, from_rows, parse, ready
from raymill.tensors import TF_DTYPES, TensorSpec

SIGNATURE_NAME = "serving_default"
_PATH = re.compile(
    r"^/v1/models/(?P<model>[^/:]+)"
    r"(?:/versions/(?P<version>[0-9]{1,18})|/labels/(?P<label>[^/:]+))?"
    r"(?P<metadata>/metadata)?"
    r"(?::(?P<verb>predict|classify|regress))?\Z",
    re.IGNORECASE | re.ASCII,
)

Wanted = str | int | None


class TFServingRest:
    """Predict, classify, regress, status and metadata; row `instances` and columnar `inputs`."""

    name: ClassVar[str] = "tfserving_rest"
    roots: ClassVar[tuple[str, ...]] = ("v1", "V1")
    kinds: ClassVar[Set[bytes]] = frozenset()

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    async def handle(self, request: Request) -> Response:
        match = self._match(request)
        model, wanted = match["model"], _wanted(match)
        if match["verb"]:
            number, _ = self._plane.manifest(model, wanted)  # an unknown model is 404, whatever the body
            request.model, request.version = model, str(number)
            answer = {"predict": self._predict, "classify": self._classify, "regress": self._regress}
            return await answer[match["verb"]](model, wanted, request.body)
        if match["metadata"]:
            return self._metadata(model, wanted)
        statuses = self._plane.status(model, wanted)
        return json_response({"model_version_status": [_status(status) for status in statuses]})

    def lines(self, request: Request) -> ndjson.Lines:
        """An instance a line, its prediction a line."""
        match = self._match(request)
        if match["verb"] != "predict":
            raise InvalidInput("lines are answered by :predict alone; post them there")
        model, wanted = match["model"], _wanted(match)
        number, _ = self._plane.manifest(model, wanted)
        request.model, request.version = model, str(number)

        async def predict(rows: list[Any]) -> list[Any]:
            _, manifest = self._plane.manifest(model, wanted)  # a version may have taken over meanwhile
            columns = ready(from_rows(rows, manifest.signature), manifest.signature)
            return list(_rows((await self._plane.infer(model, columns, wanted)).outputs))

        return ndjson.by_row(predict)

    def openapi(self) -> dict[str, Any]:
        return tfserving_openapi.paths(self._plane)

    def error(self, status: int, message: str) -> Response:
        return json_response({"error": message}, status)

    def _match(self, request: Request) -> re.Match[str]:
        match = _path(request.path)
        if match is None or (match["verb"] and match["metadata"]):
            raise InvalidInput(
                f"Malformed request: {request.method} {request.path:.200}; "
                "have: GET /v1/models/MODEL[/versions/N|/labels/L][/metadata], "
                "POST /v1/models/MODEL[/versions/N|/labels/L]:predict|:classify|:regress"
            )
        expected = "POST" if match["verb"] else "GET"
        if request.method != expected and (request.method, expected) != ("HEAD", "GET"):
            # TF Serving has 400 here as well; 405 is what HTTP's own tools look for
            message = f"Malformed request: {request.method} {request.path}; use {expected}"
            raise HttpError(405, message, ((b"allow", expected.encode()),))
        return match

    async def _predict(self, model: str, wanted: Wanted, body: bytes) -> Response:
        _, manifest = self._plane.manifest(model, wanted)
        document = parse(body, ("instances", "inputs"), SIGNATURE_NAME)
        by_row = "instances" in document
        read = from_rows if by_row else from_columns
        given = read(document["instances" if by_row else "inputs"], manifest.signature)
        columns = ready(given, manifest.signature)
        outputs = (await self._plane.infer(model, columns, wanted)).outputs
        if by_row:
            return _response({"predictions": _rows(outputs)})
        return _response({"outputs": next(iter(outputs.values())) if len(outputs) == 1 else outputs})

    async def _classify(self, model: str, wanted: Wanted, body: bytes) -> Response:
        classes = self._plane.classes(model, wanted)
        scores = await self._scores(model, wanted, body)
        if scores.ndim == 1:  # the chance of the second of two classes
            scores = np.stack([1 - scores, scores], axis=1)
        pairs = [list(map(list, zip(classes, row, strict=True))) for row in scores.tolist()]
        return _response({"results": pairs})

    async def _regress(self, model: str, wanted: Wanted, body: bytes) -> Response:
        _, manifest = self._plane.manifest(model, wanted)
        if manifest.task == "multiclass":
            raise InvalidInput(f"model {model!r} gives a chance for each class, not one value; use :classify")
        return _response({"results": await self._scores(model, wanted, body)})

    async def _scores(self, model: str, wanted: Wanted, body: bytes) -> np.ndarray:
        _, manifest = self._plane.manifest(model, wanted)
        document = parse(body, ("examples",), SIGNATURE_NAME)
        given = from_examples(document["examples"], document.get("context"), manifest.signature)
        columns = ready(given, manifest.signature)
        return next(iter((await self._plane.infer(model, columns, wanted)).outputs.values()))

    def _metadata(self, model: str, wanted: Wanted) -> Response:
        number, manifest = self._plane.manifest(model, wanted)
        signature = {
            "inputs": {spec.name: _tensor_info(spec) for spec in manifest.signature.inputs},
            "outputs": {spec.name: _tensor_info(spec) for spec in manifest.signature.outputs},
            "method_name": "tensorflow/serving/predict",
        }
        return json_response(
            {
                "model_spec": {"name": model, "signature_name": "", "version": str(number)},
                "metadata": {
                    "signature_def": {
                        "@type": "type.googleapis.com/tensorflow.serving.SignatureDefMap",
                        "signature_def": {SIGNATURE_NAME: signature},
                    }
                },
            }
        )


@lru_cache(PATHS)
def _path(path: str) -> re.Match[str] | None:
    """Return the parts of a path. TF Serving takes its own words in any case; models and labels have one."""
    match = _PATH.match(path)
    if match and match["verb"]:
        match = _PATH.match(path[: match.start("verb")] + match["verb"].lower())
    return match


def _response(document: Any) -> Response:
    """Return an answer whose numbers that are not finite are written as TF Serving does, not as null."""
    response = json_response(document)
    if b"null" in response.body:
        response.body = dumps(document)
    return response


def _wanted(match: re.Match[str]) -> Wanted:
    return int(match["version"]) if match["version"] else match["label"]


def _rows(outputs: Mapping[str, np.ndarray]) -> Any:
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    rows = len(next(iter(outputs.values())))
    return [{name: values[row] for name, values in outputs.items()} for row in range(rows)]


def _status(status: VersionStatus) -> dict[str, Any]:
    code = "UNKNOWN" if status.error else "OK"
    return {
        "version": str(status.number),
        "state": status.state,
        "status": {"error_code": code, "error_message": status.error},
    }


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    dims = [{"size": str(size), "name": ""} for size in spec.shape]
    return {
        "dtype": TF_DTYPES[spec.dtype],
        "tensor_shape": {"dim": dims, "unknown_rank": False},
        "name": f"{SIGNATURE_NAME}_{spec.name}:0",
    }
