"""The request bodies of TensorFlow Serving's REST API to plain columns."""

from __future__ import annotations

import base64
import binascii
import codecs
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from operator import itemgetter
from typing import Any

import orjson

from raymill.errors import InvalidInput, some
from raymill.serving import json_columns
from raymill.serving.json_columns import kind
from raymill.tensors import Signature, TensorSpec

# A text, which may hold the words as well, or a bare word. The end of a text is optional, and nothing is
# given back, so that a body that never ends one is read once.
_BARE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|\bNaN\b|-?\bInfinity\b', re.DOTALL)

Columns = Mapping[str, Sequence[Any]]


def parse(body: bytes, one_of: tuple[str, ...], signature_name: str) -> Any:
    """Return a body's object, which holds exactly one of `one_of`; as in TF Serving, other keys mean nothing.

    Raises:
        InvalidInput: says which key, and what is allowed.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        document = _lenient(body, error)
    if not isinstance(document, dict):
        raise InvalidInput(f"the body must be a JSON object, got {kind(document)}")
    if document.get("signature_name") not in (None, "", signature_name):
        raise InvalidInput(
            f"Serving signature name: {document['signature_name']!r:.60} not found; have: {signature_name}"
        )
    given = [key for key in one_of if key in document]
    if len(given) != 1:
        wanted = " and ".join(map(repr, one_of))
        found = "both" if given else "neither" if len(one_of) > 1 else "nothing"
        raise InvalidInput(f"the body needs {'one of ' * (len(one_of) > 1)}{wanted}, got {found}")
    return document


def dumps(document: Any) -> bytes:
    """Return `document` as JSON with TF Serving's words for numbers that are not finite."""
    return json.dumps(document, default=_shortest, separators=(",", ":")).encode()


def from_columns(inputs: Any, signature: Signature) -> Columns:
    """Return the columns of `inputs`: an object of lists, or the list itself for a lone input."""
    names = [spec.name for spec in signature.inputs]
    if len(names) == 1 and not isinstance(inputs, dict):
        inputs = {names[0]: inputs}
    if not isinstance(inputs, dict):
        raise InvalidInput(f"'inputs' must be an object of input name to list, got {kind(inputs)}")
    for name, values in inputs.items():
        if not isinstance(values, list):
            raise InvalidInput(f"input {name!r:.60} must be a list with one value a row, got {kind(values)}")
        if not values:
            raise InvalidInput(f"input {name!r:.60} is empty; a request needs at least one row")
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

    A feature is a value or a list. As over gRPC, the list of one value is that value where the input holds
    one; an empty list, and no feature at all, is null where that is allowed; 1 and 0 are booleans.
    """
    if context is not None and not isinstance(context, dict):
        raise InvalidInput(f"'context' must be an object of input name to value, got {kind(context)}")
    if not isinstance(examples, list) or not examples:
        raise InvalidInput(f"'examples' must be a list of at least one row, got {kind(examples)}")
    for row, example in enumerate(examples):
        _check_row(example, example, row, "example")
    rows = [{**(context or {}), **example} for example in examples]
    known = {spec.name: spec for spec in signature.inputs}
    names = [*chain.from_iterable(rows), *(spec.name for spec in signature.inputs if spec.nullable)]
    return {
        name: [_feature(example, name, row, known.get(name)) for row, example in enumerate(rows)]
        for name in dict.fromkeys(names)
    }


def ready(columns: Columns, signature: Signature) -> json_columns.Columns:
    """Return the columns with the text of {"b64": ...} in its place, and with numbers as arrays."""
    for spec in signature.inputs:
        if spec.dtype == "string" and dict in set(map(type, columns.get(spec.name, ()))):
            texts = [_unwrapped(value) for value in columns[spec.name]]
            columns = {**columns, spec.name: texts}
    return json_columns.arrays(columns, signature)


def _lenient(body: bytes, error: orjson.JSONDecodeError) -> Any:
    """Return a body that is right but for what TF Serving takes too: a byte order mark, bare NaN, Infinity.

    Raises:
        InvalidInput: `error`, if it is about something else.
    """
    text = body.removeprefix(codecs.BOM_UTF8)
    with suppress(ValueError, RecursionError):
        if b"NaN" in text or b"Infinity" in text:
            # json is laxer in other things too, which orjson refuses
            orjson.loads(_BARE.sub(lambda found: found[0] if found[0][:1] == b'"' else b"0", text))
            return json.loads(text, parse_int=orjson.loads)
        if len(text) < len(body):
            return orjson.loads(text)
    raise InvalidInput(f"JSON Parse error: {error}") from error


def _shortest(values: Any) -> Any:
    """Return an array as lists, each float as the shortest number that is read as it: what orjson writes."""
    return values.astype(str).astype(float).tolist() if values.dtype.kind == "f" else values.tolist()


def _check_row(first: Any, instance: Any, row: int, what: str) -> None:
    if not isinstance(instance, dict):
        raise InvalidInput(f"{what} {row} must be an object of input name to value, got {kind(instance)}")
    if instance.keys() != first.keys():
        other = [key for key in first if key not in instance] + [key for key in instance if key not in first]
        raise InvalidInput(f"{what} {row} does not have the same inputs as {what} 0: {some(other)}")


def _feature(example: Mapping[str, Any], name: str, row: int, spec: TensorSpec | None) -> Any:
    if spec is None:  # the encoder says which inputs there are
        return None
    value = example.get(name, [])
    if value == [] and spec.nullable:
        return None
    if name not in example:
        raise InvalidInput(f"input {name!r}, row {row}: missing, and this input has no null policy")
    values = value if isinstance(value, list) else [value]
    if spec.dtype == "bool" and set(map(type, values)) == {int} and set(values) <= {0, 1}:
        values = list(map(bool, values))
    alone = not isinstance(value, list) or len(values) == len(spec.shape) == 1
    return values[0] if alone else values


def _is_b64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"}


def _unwrapped(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if not _is_b64(value):
        raise InvalidInput(f'a value must not be an object, except {{"b64": "..."}}; got {value!r:.60}')
    given = value["b64"]
    try:
        return _bytes(given).decode()
    except (binascii.Error, UnicodeDecodeError, TypeError, ValueError) as error:
        raise InvalidInput(f"b64 value {given!r:.60} is not base64 of UTF-8 text: {error}") from error


def _bytes(text: Any) -> bytes:
    """Return what base64 says; as TF Serving takes it, with white space anywhere and without padding."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        bare = re.sub(r"[ \t\r\n\v\f]", "", text)
        return base64.b64decode(bare if "=" in bare else bare + "=" * (-len(bare) % 4), validate=True)
