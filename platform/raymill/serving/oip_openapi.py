"""What the Open Inference Protocol says of the models served, in OpenAPI."""

from __future__ import annotations

from typing import Any

from raymill.repo import Manifest
from raymill.serving.openapi import Schema, closed, listed, nullable, opened, operation, sample, value
from raymill.serving.plane import Plane
from raymill.tensors import OIP_DTYPES, Signature, TensorSpec

TAG = "Open Inference Protocol"
PARAMETERS: Schema = nullable({"type": "object"})
BOOLEAN: Schema = nullable({"type": "boolean"})


def paths(plane: Plane) -> dict[str, Any]:
    """Return the path items of the server, of every model, and of each of its versions and labels."""
    found: dict[str, Any] = {
        "/v2": _get("Server", "Name, version and extensions of the server."),
        "/v2/health/live": _get("Live", "Whether the server runs."),
        "/v2/health/ready": _get("Ready", "Whether every model answers."),
        "/v2/models/stats": _get("Statistics", "Counts and durations of all models."),
        "/v2/repository/index": {
            "post": operation(
                TAG, "Repository", "Models and their states; `ready` for those alone that answer.",
                {"type": "array", "items": {"type": "object"}},
                body=closed({}, {"ready": BOOLEAN}), body_required=False, example={},
            )
        },
    }  # fmt: skip
    for model, served in plane.served().items():
        ways = {f"/v2/models/{model}": served.default}
        ways |= {f"/v2/models/{model}/versions/{number}": number for number in served.versions}
        ways |= {f"/v2/models/{model}/versions/{label}": number for label, number in served.labels.items()}
        for path, number in ways.items():
            found |= _of_version(path, served.versions[number].version.manifest)
    for model in plane.models():
        found[f"/v2/repository/models/{model}/load"] = _change(
            "Load", "Load the model, or follow its labels."
        )
        found[f"/v2/repository/models/{model}/unload"] = _change("Unload", "Take the model away.")
    return found


def _of_version(path: str, manifest: Manifest) -> dict[str, Any]:
    text: Schema = {"type": "string"}
    outputs: Schema = {"type": "array", "items": {"type": "object"}}
    infer = operation(
        TAG, "Infer", "Every input as a tensor, once, all with the same rows; `data` has as many elements "
        "as `shape` makes. Tensors may come and go as binary data behind the JSON.",
        closed({"model_name": text, "model_version": text, "outputs": outputs}, {"id": {}}),
        body=_request(manifest.signature), example=_example(manifest.signature),
        lines="a request a line, its answer a line, all tensors as JSON.",
    )  # fmt: skip
    return {
        path: _get("Metadata", "Versions, inputs and outputs."),
        f"{path}/ready": _get("Model ready", "Whether it answers."),
        f"{path}/infer": {"post": infer},
        f"{path}/stats": _get("Model statistics", "Counts and durations."),
        f"{path}/config": _get("Configuration", "What Triton's model configuration would hold."),
    }


def _request(signature: Signature) -> Schema:
    tensors = [_tensor(spec) for spec in signature.inputs]
    inputs = {
        "type": "array", "items": {"anyOf": tensors}, "minItems": len(tensors), "maxItems": len(tensors),
        "allOf": [_holds(spec.name) for spec in signature.inputs],
    }  # fmt: skip
    output = opened({"name": {"enum": [spec.name for spec in signature.outputs]}}, {"parameters": PARAMETERS})
    optional = {
        "id": nullable({"type": "string"}),
        "parameters": PARAMETERS,
        "outputs": nullable({"type": "array", "items": output, "maxItems": len(signature.outputs)}),
    }
    return opened({"inputs": inputs}, optional)


def _example(signature: Signature) -> dict[str, Any]:
    return {
        "inputs": [
            {
                "name": spec.name,
                "datatype": OIP_DTYPES[spec.dtype],
                "shape": [1, *spec.shape[1:]],
                "data": [sample(spec)],
            }
            for spec in signature.inputs
        ]
    }


def _tensor(spec: TensorSpec) -> Schema:
    one = value(TensorSpec(name=spec.name, dtype=spec.dtype, nullable=spec.nullable))
    sizes = {"type": "array", "items": {"type": "integer", "minimum": 1}}
    return opened(
        {
            "name": {"const": spec.name},
            "datatype": {"const": OIP_DTYPES[spec.dtype]},
            "shape": sizes | {"minItems": len(spec.shape), "maxItems": max(2, len(spec.shape))},
            "data": listed(value(spec))
            if spec.shape[1:] == ()
            else {"anyOf": [listed(value(spec)), listed(one)]},
        },
        {"parameters": PARAMETERS},
    )


def _holds(name: str) -> Schema:
    """Return the schema of a list that holds the input of a name."""
    return {"contains": {"properties": {"name": {"const": name}}, "required": ["name"]}}


def _change(summary: str, description: str) -> dict[str, Any]:
    answer, body = {"type": "object"}, closed({}, {"parameters": PARAMETERS})
    return {"post": operation(TAG, summary, description, answer, body=body, body_required=False, example={})}


def _get(summary: str, description: str) -> dict[str, Any]:
    return {"get": operation(TAG, summary, description, {"type": "object"})}
