"""The request bodies of TensorFlow Serving's REST API to plain columns."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import orjson

from raymill.errors import InvalidInput
from raymill.serving import json_columns
from raymill.serving.json_columns import kind
from raymill.tensors import Signature

Columns = Mapping[str, Sequence[Any]]


def parse(body: bytes, one_of: tuple[str, ...], signature_name: str, also: tuple[str, ...] = ()) -> Any:
    """Return a body's object, which holds exactly one of `one_of` and nothing that is not known.

    Raises:
        InvalidInput: says which key, and what is allowed.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise InvalidInput(f"the body must be a JSON object, got {kind(document)}")
    if document.get("signature_name") not in (None, "", signature_name):
        raise InvalidInput(
            f"Serving signature name: {document['signature_name']!r} not found; have: {signature_name}"
        )
    unknown = document.keys() - {*one_of, *also, "signature_name"}
    if unknown:
        have = ", ".join([*one_of, *also, "signature_name"])
        raise InvalidInput(f"unknown key {sorted(unknown)[0]!r}; have: {have}")
    given = [key for key in one_of if key in document]
    if len(given) != 1:
        wanted = " and ".join(map(repr, one_of))
        found = "both" if given else "neither" if len(one_of) > 1 else "nothing"
        raise InvalidInput(f"the body needs {'one of ' * (len(one_of) > 1)}{wanted}, got {found}")
    return document


def from_columns(inputs: Any, signature: Signature) -> Columns:
    """Return the columns of `inputs`: an object of lists, or the list itself for a lone input."""
    names = [spec.name for spec in signature.inputs]
    if len(names) == 1 and not isinstance(inputs, dict):
        inputs = {names[0]: inputs}
    if not isinstance(inputs, dict):
        raise InvalidInput(f"'inputs' must be an object of input name to list, got {kind(inputs)}")
    for name, values in inputs.items():
        if not isinstance(values, list):
            raise InvalidInput(f"input {name!r} must be a list with one value a row, got {kind(values)}")
        if not values:
            raise InvalidInput(f"input {name!r} is empty; a request needs at least one row")
    return inputs


def from_rows(instances: Any, signature: Signature, what: str = "instance") -> Columns:
    """Return the columns of `instances`: a list of objects, or of values for a lone input."""
    if not isinstance(instances, list) or not instances:
        raise InvalidInput(f"'{what}s' must be a list of at least one row, got {kind(instances)}")
    if len(signature.inputs) == 1 and (not isinstance(instances[0], dict) or _is_b64(instances[0])):
        return {signature.inputs[0].name: instances}
    first = instances[0]
    if not isinstance(first, dict) or not first or len(instances) == 1:
        _check_row(first, first, 0, what)
        return {name: [value] for name, value in first.items()}
    try:
        rows = list(map(itemgetter(*first), instances))
        equal = set(map(len, instances)) == {len(first)}
    except (KeyError, TypeError):
        equal = False
    if not equal:
        for row, instance in enumerate(instances):
            _check_row(first, instance, row, what)
    columns: Iterable[Any] = zip(*rows, strict=True) if len(first) > 1 else [rows]
    return dict(zip(first, columns, strict=True))


def from_examples(examples: Any, context: Any, signature: Signature) -> Columns:
    """Return the columns of `examples`, each joined with the features of `context`.

    A feature is a value or a list; the list of one value is that value where the input holds one.
    """
    if context is not None and not isinstance(context, dict):
        raise InvalidInput(f"'context' must be an object of input name to value, got {kind(context)}")
    if isinstance(examples, list):
        for row, example in enumerate(examples):
            _check_row(example, example, row, "example")
        examples = [{**(context or {}), **example} for example in examples]
    columns = from_rows(examples, signature, "example")
    single = {spec.name for spec in signature.inputs if len(spec.shape) == 1}
    return {
        name: [_lone(value) for value in values] if name in single else values
        for name, values in columns.items()
    }


def ready(columns: Columns, signature: Signature) -> json_columns.Columns:
    """Return the columns with the text of {"b64": ...} in its place, and with numbers as arrays."""
    for spec in signature.inputs:
        if spec.dtype == "string" and dict in set(map(type, columns.get(spec.name, ()))):
            texts = [_unwrapped(value) for value in columns[spec.name]]
            columns = {**columns, spec.name: texts}
    return json_columns.arrays(columns, signature)


def _check_row(first: Any, instance: Any, row: int, what: str) -> None:
    if not isinstance(instance, dict):
        raise InvalidInput(f"{what} {row} must be an object of input name to value, got {kind(instance)}")
    if instance.keys() != first.keys():
        other = sorted(first.keys() ^ instance.keys())
        raise InvalidInput(f"{what} {row} does not have the same inputs as {what} 0: {other}")


def _lone(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _is_b64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"}


def _unwrapped(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if not _is_b64(value):
        raise InvalidInput(f'a value must not be an object, except {{"b64": "..."}}; got {value!r:.60}')
    try:
        return base64.b64decode(value["b64"], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, TypeError, ValueError) as error:
        raise InvalidInput(f"b64 value {value['b64']!r:.60} is not base64 of UTF-8 text: {error}") from error
