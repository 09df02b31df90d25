"""What TensorFlow Serving's REST API says of the models served, in OpenAPI."""

from __future__ import annotations

from typing import Any

from raymill.repo import Manifest
from raymill.serving import openapi
from raymill.serving.openapi import Schema, closed, listed, opened, operation, output, row, row_value, sample
from raymill.serving.plane import Plane
from raymill.tensors import TensorSpec

TAG = "TensorFlow Serving"
SIGNED: Schema = {"signature_name": {"enum": ["serving_default", "", None]}}


def paths(plane: Plane) -> dict[str, Any]:
    """Return the path items of every model, of each of its versions and of each label."""
    found: dict[str, Any] = {}
    for model, served in plane.served().items():
        ways = {f"/v1/models/{model}": served.default}
        ways |= {f"/v1/models/{model}/versions/{number}": number for number in served.versions}
        ways |= {f"/v1/models/{model}/labels/{label}": number for label, number in served.labels.items()}
        for path, number in ways.items():
            found |= _of_version(path, served.versions[number].version.manifest)
    return found


def _of_version(path: str, manifest: Manifest) -> dict[str, Any]:
    signature = manifest.signature
    result = output(signature.outputs[0])
    rows = [{spec.name: sample(spec) for spec in signature.inputs}]
    by_row = {"anyOf": [listed(one) for one in row(signature)]}
    by_column = openapi.columns(signature)
    if len(signature.inputs) == 1:  # whose list may stand alone
        by_column = {"anyOf": [by_column, listed(row_value(signature.inputs[0]))]}
    predict = operation(
        TAG, "Predict", "Rows as `instances` or columns, all of one length, as `inputs`. Text may come as "
        '{"b64": "..."}. Other keys mean nothing. A number that is not finite is NaN, Infinity or -Infinity.',
        {"anyOf": [closed({"predictions": listed(result)}), closed({"outputs": listed(result)})]},
        body={"anyOf": [_one("instances", by_row, no="inputs"), _one("inputs", by_column, no="instances")]},
        example={"instances": rows}, lines="an instance a line, its prediction a line.",
    )  # fmt: skip
    items: dict[str, Any] = {
        path: {"get": operation(TAG, "Status", "States of the versions.", {"type": "object"})},
        f"{path}/metadata": {"get": operation(TAG, "Metadata", "Inputs and outputs.", {"type": "object"})},
        f"{path}:predict": {"post": predict},
    }
    examples: dict[str, Any] = {"body": _examples(manifest), "example": {"examples": rows}}
    if manifest.task != "regression":
        # prefixItems would say which is which, but not every reader of OpenAPI knows it
        pair = {
            "type": "array",
            "items": {"type": ["string", "number", "null"]},
            "minItems": 2,
            "maxItems": 2,
        }
        pairs = listed(listed(pair))
        answer = closed({"results": pairs})
        verb = operation(TAG, "Classify", "Pairs of class and chance for each example.", answer, **examples)
        items[f"{path}:classify"] = {"post": verb}
    if manifest.task != "multiclass":
        verb = operation(
            TAG, "Regress", "A value for each example.", closed({"results": listed(result)}), **examples
        )
        items[f"{path}:regress"] = {"post": verb}
    return items


def _one(key: str, schema: Schema, no: str) -> Schema:
    return opened({key: schema}, SIGNED) | {"not": {"required": [no]}}


def _examples(manifest: Manifest) -> Schema:
    inputs = manifest.signature.inputs
    must = {spec.name: _feature(spec) for spec in inputs if not spec.nullable}
    may = {spec.name: _feature(spec) for spec in inputs if spec.nullable}
    return opened({"examples": listed(closed(must, may))}, SIGNED)


def _feature(spec: TensorSpec) -> Schema:
    """Return the schema of an input's value in an example: also in a list of its own, of none for null."""
    one = row_value(spec)
    if len(spec.shape) > 1:
        return {"anyOf": [one, {"type": "array", "maxItems": 0}]} if spec.nullable else one
    if spec.dtype == "bool":
        one = {"anyOf": [one, {"type": "integer", "minimum": 0, "maximum": 1}]}
    alone = {"type": "array", "items": one, "minItems": 0 if spec.nullable else 1, "maxItems": 1}
    return {"anyOf": [one, alone]}
