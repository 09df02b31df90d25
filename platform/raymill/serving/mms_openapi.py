"""What MXNet Model Server's API says of the models served, in OpenAPI."""

from __future__ import annotations

from typing import Any

from raymill.serving.openapi import Schema, closed, listed, operation, output, row, sample
from raymill.serving.plane import Plane

TAG = "MXNet Model Server"
ERROR = "ModelServerError"
STATUS: Schema = closed({"status": {"type": "string"}})


def paths(plane: Plane) -> dict[str, Any]:
    """Return the path items of the server and of every model."""
    register = operation(TAG, "Register", "Load a model, or follow its labels.", STATUS, error=ERROR)
    register["parameters"] = [
        {"name": "url", "in": "query", "required": True, "schema": {"enum": plane.models()}}
    ]
    found: dict[str, Any] = {
        "/ping": {"get": operation(TAG, "Ping", "Whether every model answers.", STATUS, error=ERROR)},
        "/models": {
            "get": operation(TAG, "Models", "Names of the models.", {"type": "object"}, error=ERROR),
            "post": register,
        },
    }
    for model, served in plane.served().items():
        signature = served.versions[served.default].version.manifest.signature
        ones, result = row(signature), output(signature.outputs[0])
        predict = operation(
            TAG, "Predict", "A row and its prediction, or a list of rows and a list.",
            {"anyOf": [result, listed(result)]},
            body={"anyOf": [*ones, *map(listed, ones)]},
            example={spec.name: sample(spec) for spec in signature.inputs}, error=ERROR,
            lines="a row a line, its prediction a line.",
        )  # fmt: skip
        found[f"/predictions/{model}"] = {"post": predict, "put": predict}
        describe = operation(TAG, "Describe", "Version, engine and state.", {"type": "object"}, error=ERROR)
        unregister = operation(TAG, "Unregister", "Take the model away.", STATUS, error=ERROR)
        found[f"/models/{model}"] = {"get": describe, "delete": unregister}
    return found
