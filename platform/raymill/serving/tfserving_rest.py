"""TensorFlow Serving's REST API: `/v1/models/...`, request and response bodies, errors and codes.

https://www.tensorflow.org/tfx/serving/api_rest. A TF Serving client changes its host name only.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import orjson

from raymill.errors import InvalidInput, Unsupported
from raymill.serving.http import Request, Response, json_response
from raymill.serving.plane import Plane, VersionStatus
from raymill.tensors import TF_DTYPES, Signature, TensorSpec

SIGNATURE_NAME = "serving_default"
_PATH = re.compile(
    r"^/v1/models/(?P<model>[^/:]+)"
    r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
    r"(?P<metadata>/metadata)?"
    r"(?::(?P<verb>predict|classify|regress))?$"
)


class TFServingRest:
    """Predict, status and metadata; row `instances` and columnar `inputs`."""

    prefix: ClassVar[str] = "/v1/"

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def handle(self, request: Request) -> Response:
        match = _PATH.match(request.path)
        expected = "POST" if match and match["verb"] else "GET"
        if match is None or request.method != expected or (match["verb"] and match["metadata"]):
            raise InvalidInput(
                f"Malformed request: {request.method} {request.path}; "
                "have: GET /v1/models/MODEL[/versions/N|/labels/L][/metadata], "
                "POST /v1/models/MODEL[/versions/N|/labels/L]:predict"
            )
        model = match["model"]
        wanted = int(match["version"]) if match["version"] else match["label"]
        if match["verb"] == "predict":
            return self._predict(model, wanted, request.body)
        if match["verb"]:
            raise Unsupported(f"{match['verb']} is not served; use :predict, which answers for every model")
        if match["metadata"]:
            return self._metadata(model, wanted)
        statuses = self._plane.status(model, wanted)
        return json_response({"model_version_status": [_status(status) for status in statuses]})

    def error(self, status: int, message: str) -> Response:
        return json_response({"error": message}, status)

    def _predict(self, model: str, wanted: str | int | None, body: bytes) -> Response:
        _, manifest = self._plane.manifest(model, wanted)  # an unknown model is 404, whatever the body
        document = _parse(body)
        columns, by_row = _columns(document, manifest.signature)
        answer = self._plane.infer(model, columns, wanted)
        if by_row:
            return json_response({"predictions": _rows(answer.outputs)})
        outputs = answer.outputs
        return json_response({"outputs": next(iter(outputs.values())) if len(outputs) == 1 else outputs})

    def _metadata(self, model: str, wanted: str | int | None) -> Response:
        number, manifest = self._plane.manifest(model, wanted)
        signature = {
            "inputs": {spec.name: _tensor_info(spec) for spec in manifest.signature.inputs},
            "outputs": {spec.name: _tensor_info(spec) for spec in manifest.signature.outputs},
            "method_name": "tensorflow/serving/predict",
        }
        return json_response(
            {
                "model_spec": {"name": model, "signature_name": "", "version": str(number)},
                "metadata": {"signature_def": {"signature_def": {SIGNATURE_NAME: signature}}},
            }
        )


def _parse(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise InvalidInput(f"the body must be a JSON object, got {_kind(document)}")
    if document.get("signature_name") not in (None, "", SIGNATURE_NAME):
        raise InvalidInput(
            f"Serving signature name: {document['signature_name']!r} not found; have: {SIGNATURE_NAME}"
        )
    unknown = document.keys() - {"instances", "inputs", "signature_name"}
    if unknown:
        raise InvalidInput(f"unknown key {sorted(unknown)[0]!r}; have: instances, inputs, signature_name")
    if ("instances" in document) == ("inputs" in document):
        found = "both" if "inputs" in document else "neither"
        raise InvalidInput(f"the body needs one of 'instances' (rows) and 'inputs' (columns), got {found}")
    return document


def _columns(document: dict[str, Any], signature: Signature) -> tuple[Mapping[str, Sequence[Any]], bool]:
    """Return plain columns, and whether they came as rows."""
    names = [spec.name for spec in signature.inputs]
    if "inputs" in document:
        return _from_columns(document["inputs"], names), False
    return _from_rows(document["instances"], names), True


def _from_columns(inputs: Any, names: list[str]) -> dict[str, list[Any]]:
    if len(names) == 1 and not isinstance(inputs, dict):
        inputs = {names[0]: inputs}
    if not isinstance(inputs, dict):
        raise InvalidInput(f"'inputs' must be an object of input name to list, got {_kind(inputs)}")
    for name, values in inputs.items():
        if not isinstance(values, list):
            raise InvalidInput(f"input {name!r} must be a list with one value a row, got {_kind(values)}")
        if not values:
            raise InvalidInput(f"input {name!r} is empty; a request needs at least one row")
    return {name: [_unwrap(value) for value in values] for name, values in inputs.items()}


def _from_rows(instances: Any, names: list[str]) -> dict[str, list[Any]]:
    if not isinstance(instances, list) or not instances:
        raise InvalidInput(f"'instances' must be a list of at least one row, got {_kind(instances)}")
    if (len(names) == 1 and not isinstance(instances[0], dict)) or _is_b64(instances[0]):
        instances = [{names[0]: value} for value in instances]
    first = instances[0]
    for row, instance in enumerate(instances):
        if not isinstance(instance, dict):
            raise InvalidInput(
                f"instance {row} must be an object of input name to value, got {_kind(instance)}"
            )
        if instance.keys() != first.keys():
            missing = sorted(first.keys() ^ instance.keys())
            raise InvalidInput(f"instance {row} does not have the same inputs as instance 0: {missing}")
    return {name: [_unwrap(instance[name]) for instance in instances] for name in first}


def _is_b64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"}


def _unwrap(value: Any) -> Any:
    """Return the text of {"b64": ...}; any other value as it is."""
    if not isinstance(value, dict):
        return value
    if not _is_b64(value):
        raise InvalidInput(f'a value must not be an object, except {{"b64": "..."}}; got {value!r:.60}')
    try:
        return base64.b64decode(value["b64"], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, TypeError, ValueError) as error:
        raise InvalidInput(f"b64 value {value['b64']!r:.60} is not base64 of UTF-8 text: {error}") from error


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


def _kind(value: Any) -> str:
    if isinstance(value, list) and not value:
        return "an empty list"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
