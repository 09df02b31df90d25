"""Spec files: YAML into frozen pydantic models, with overrides, and errors a person can act on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from raymill.errors import SpecError, nearest


class Spec(BaseModel):
    """Base of all specs: immutable, unknown keys refused, fields documented by the string beneath."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


S = TypeVar("S", bound=Spec)


def load(spec: type[S], path: str | Path, overrides: Sequence[str] = ()) -> S:
    """Return the spec read from a YAML file, with "key.sub=value" overrides applied in order.

    Values of overrides are YAML, so `workers=4` is a number and `hidden=[64, 32]` a list.

    Raises:
        SpecError: unreadable file, bad YAML, or one line per rule broken.
    """
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"spec {str(path)!r} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"spec {str(path)!r} is not text in UTF-8: {error}") from error
    except yaml.YAMLError as error:
        raise SpecError(f"spec {str(path)!r} is not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise SpecError(f"spec {str(path)!r} must be a mapping of keys, got {type(document).__name__}")
    for override in overrides:
        _apply(document, override)
    return parse(spec, document, source=str(path))


def parse(spec: type[S], document: Any, source: str = "spec") -> S:
    """Return `document` as a validated `spec`.

    Raises:
        SpecError: lists every rule broken, each with its key, its value and the nearest right key.
    """
    try:
        return spec.model_validate(document)
    except ValidationError as error:
        lines = [_explain(spec, problem) for problem in error.errors(include_url=False)]
        raise SpecError(f"{source}: " + "; ".join(lines)) from error


def _apply(document: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise SpecError(f"--set takes key=value, got {override!r}; example: --set workers=4")
    try:
        put(document, key, yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise SpecError(f"--set {key}: {text!r} is not a YAML value") from error
    except SpecError as error:
        raise SpecError(f"--set {error}") from error


def put(document: dict[str, Any], key: str, value: Any) -> None:
    """Set the value at a dotted key, making sections on the way; one that is null counts as empty.

    Raises:
        SpecError: a part of the key before its last is a value and no section.
    """
    node = document
    *parents, leaf = key.split(".")
    for depth, parent in enumerate(parents, 1):
        child = node.get(parent)
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise SpecError(f"{key}: {'.'.join(parents[:depth])!r} is a value, not a section")
        node = child
    node[leaf] = value


def with_values(document: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a spec's document with values at dotted keys. Raises as `put` does."""
    changed = copy.deepcopy(dict(document))
    for key, value in values.items():
        put(changed, key, value)
    return changed


def _explain(spec: type[BaseModel], problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location) or "the spec"
    if problem["type"] == "extra_forbidden":
        keys = _keys_at(spec, location[:-1])
        have = f"; have: {', '.join(sorted(keys))}." if keys else "."
        return f"unknown key {key!r}{have}{nearest(location[-1], keys)}"
    if problem["type"] == "missing":
        return f"key {key!r} is required"
    if problem["type"] == "invalid_key":
        return (
            f"key {problem['input']!r} is not text; YAML reads a bare on, off, yes or no as true or false, "
            "and digits as a number: put it in quotes"
        )
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {message[:1].lower()}{message[1:]}, got {problem['input']!r:.200}"


def _keys_at(annotation: Any, path: Sequence[str]) -> list[str]:
    """Return the keys a spec has at `path`, through nested specs and tables; [] where it leaves them."""
    for part in path:
        annotation = _inside(annotation, part)
    return list(getattr(_spec_in(annotation), "model_fields", {}))


def _inside(annotation: Any, part: str) -> Any:
    """Return the type of what `annotation` holds under `part`: a field, a table's value, a list's item."""
    spec = _spec_in(annotation)
    if spec is annotation or get_origin(annotation) in (Union, UnionType):
        field = getattr(spec, "model_fields", {}).get(part)
        return field.annotation if field else None
    return spec


def _spec_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _spec_in(arg))), None)
