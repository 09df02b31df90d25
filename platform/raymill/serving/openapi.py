"""`/openapi.json`, made from the models served at that moment, and `/docs`, the page that shows it.

OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.0), whose schemas are JSON Schema 2020-12. What no
schema can say, such as that all columns have one length, the descriptions say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

import raymill
from raymill.tensors import Signature, TensorSpec

if TYPE_CHECKING:
    from raymill.serving.http import HttpProtocol

Schema = dict[str, Any]

REFUSALS = {
    400: "The request breaks a rule; the message says which.",
    404: "No such model, version or label.",
    413: "The body is larger than the server takes.",
    415: "The body's content type or encoding is not read here.",
    429: "Too many requests; see Retry-After.",
    500: "The server's fault.",
    503: "Not ready, or overloaded; see Retry-After.",
    504: "The deadline passed.",
}


def document(protocols: Iterable[HttpProtocol]) -> Schema:
    """Return the OpenAPI document of all protocols, true to the models that answer now."""
    paths: Schema = {
        "/healthz": {
            "get": operation(
                "Server", "Health", "Whether every model answers.", {"type": "object"}, error="Health"
            )
        }
    }
    for protocol in protocols:
        paths |= protocol.openapi()
    _name_operations(paths)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Raymill models",
            "version": raymill.__version__,
            "description": "Models of a repository, served over several wire protocols at once.",
        },
        "paths": paths,
        "components": {
            "schemas": ERRORS,
            "responses": {
                f"{error}{code}": {
                    "description": text,
                    "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{error}"}}},
                }
                for error in ERRORS
                for code, text in REFUSALS.items()
            },
        },
    }


def _name_operations(paths: Schema) -> None:
    """Give each operation an id, its method and path in words, after which generators name what they make."""
    taken: set[str] = set()
    for path, item in paths.items():
        for method, found in item.items():
            stem = name = "_".join([method, *re.findall(r"[A-Za-z0-9]+", path)])
            number = 1
            while name in taken:  # such as of the models a-b and a_b
                number += 1
                name = f"{stem}_{number}"
            taken.add(name)
            item[method] = found | {"operationId": name}


def operation(
    tag: str,
    summary: str,
    description: str,
    answer: Schema,
    *,
    body: Schema | None = None,
    body_required: bool = True,
    example: Any = None,
    lines: str | None = None,
    error: str = "Error",
) -> Schema:
    """Return an operation whose JSON answer has schema `answer` and whose refusals are of ERRORS' `error`.

    Args:
        lines: What lines of NDJSON ask and answer. Told in words, for openapi-python-client leaves out
            operations whose bodies may have a content type that it cannot write.
    """
    if lines is not None:
        description += f" As application/x-ndjson: {lines}"
    made: Schema = {"tags": [tag], "summary": summary, "description": description}
    if body is not None:
        content: Schema = {"schema": body} if example is None else {"schema": body, "example": example}
        made["requestBody"] = {"required": body_required, "content": {"application/json": content}}
    made["responses"] = {
        "200": {"description": "OK", "content": {"application/json": {"schema": answer}}}
    } | {str(code): {"$ref": f"#/components/responses/{error}{code}"} for code in REFUSALS}
    return made


def row(signature: Signature) -> list[Schema]:
    """Return the schemas of one row: an object with every input, or the value itself of a lone input."""
    properties = {spec.name: row_value(spec) for spec in signature.inputs}
    return [closed(properties), *(properties.values() if len(properties) == 1 else ())]


def columns(signature: Signature) -> Schema:
    """Return the schema of columns: an object of lists, one value a row."""
    return closed({spec.name: listed(row_value(spec)) for spec in signature.inputs})


def closed(properties: Schema, optional: Schema | None = None) -> Schema:
    """Return an object with exactly these properties, and any of the optional ones."""
    return opened(properties, optional) | {"additionalProperties": False}


def opened(properties: Schema, optional: Schema | None = None) -> Schema:
    """Return an object with these properties, any of the optional ones, and others that mean nothing."""
    return {"type": "object", "properties": properties | (optional or {}), "required": list(properties)}


def listed(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


_TEXT: Schema = {"type": "string"}
ERRORS: dict[str, Schema] = {
    "Error": closed({"error": _TEXT}),
    "ModelServerError": closed({"code": {"type": "integer"}, "type": _TEXT, "message": _TEXT}),
    "Health": {"type": "object"},
}
"""Schemas of what a refusal says, by the name that it has in `components`."""


def value(spec: TensorSpec) -> Schema:
    """Return the schema of one row's value of an input."""
    one: Schema = {"type": {"bool": "boolean", "string": "string"}.get(spec.dtype, "number")}
    if spec.dtype.startswith("float"):
        limit = float(np.finfo("float16" if spec.dtype == "float16" else "float32").max)
        one |= {"minimum": -limit, "maximum": limit}
    elif one["type"] == "number":
        limits = np.iinfo(spec.dtype)
        one = {"type": "integer", "minimum": int(limits.min), "maximum": int(limits.max)}
    if spec.nullable:
        one = nullable(one)
    if len(spec.shape) == 1:
        return one
    vector = {"type": "array", "items": one, "minItems": spec.shape[1], "maxItems": spec.shape[1]}
    return nullable(vector) if spec.nullable else vector


def row_value(spec: TensorSpec) -> Schema:
    """Return the schema of an input's value in a row or column, where text may also come as base64."""
    if spec.dtype != "string":
        return value(spec)
    one = {"anyOf": [{"type": "string"}, closed({"b64": {"type": "string", "contentEncoding": "base64"}})]}
    return nullable(one) if spec.nullable else one


def nullable(schema: Schema) -> Schema:
    """Return the schema, or null; not as a list of types, which some tools cannot read."""
    return {"anyOf": [schema, {"type": "null"}]}


def output(spec: TensorSpec) -> Schema:
    """Return the schema of one row's value of an output."""
    one = nullable({"type": "number"})  # null stands for what JSON has no number for
    for size in reversed(spec.shape[1:]):
        one = {"type": "array", "items": one} | ({} if size < 0 else {"minItems": size, "maxItems": size})
    return one


def sample(spec: TensorSpec) -> Any:
    """Return a value of an input, for an example that works."""
    one: Any = {"bool": True, "string": "text"}.get(spec.dtype, 1.0 if "float" in spec.dtype else 1)
    return one if len(spec.shape) == 1 else [one] * spec.shape[1]


@cache
def docs_page() -> bytes:
    return (files("raymill.serving") / "docs.html").read_bytes()
