"""What JSON Schema cannot say: right requests have equal rows, fitting sizes and base64; answers have NaN."""

from __future__ import annotations

import re
from typing import Any

import schemathesis


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if isinstance(case.body, dict | list):
        case.body = encoded(case.body)
    if not isinstance(case.body, dict):
        return
    inputs = case.body.get("inputs")
    if isinstance(inputs, dict):
        case.body = {**case.body, "inputs": {name: values[:1] for name, values in inputs.items()}}
    elif isinstance(inputs, list) and "/infer" in case.path:
        case.body = {**case.body, "inputs": [one_row(tensor) for tensor in inputs]}


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    response.content = re.sub(rb"\bNaN\b|-?\bInfinity\b", b"0", response.content)


def encoded(value: Any) -> Any:
    """Return a body whose texts in base64 are some."""
    if isinstance(value, list):
        return [encoded(part) for part in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"b64"}:
        return {"b64": "YQ=="}
    return {key: encoded(part) for key, part in value.items()}


def one_row(tensor: dict[str, Any]) -> dict[str, Any]:
    data = tensor["data"][:1]
    shape = [1, len(data[0])] if isinstance(data[0], list) else [1]
    return {**tensor, "shape": shape, "data": data, "parameters": {}}
