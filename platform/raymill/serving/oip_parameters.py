"""Parameters of requests, tensors and loads in the Open Inference Protocol, and those that are refused.

What asks for another answer, by an extension of Triton's that is not served, must not be passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from raymill.errors import InvalidInput
from raymill.serving.json_columns import kind

_NOT_SERVED = ("classification", "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")


def parameters(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters of a request or a tensor. Raises InvalidInput if they are no object."""
    given = document.get("parameters")
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InvalidInput(f"'parameters' must be an object, got {kind(given)}")
    return given


def flag(given: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """Return a parameter that is true or false. Raises InvalidInput if it is neither."""
    value = given.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidInput(f"parameter {name!r} must be true or false, got {value!r:.60}")
    return value


def refuse_extensions(given: Mapping[str, Any], what: str) -> None:
    """Raise InvalidInput if the parameters of an input or output ask for classes or for shared memory."""
    for name in _NOT_SERVED:
        if given.get(name):
            raise InvalidInput(f"{what}: parameter {name!r} is not served here; tensors come and go by value")


def refuse_overrides(names: Iterable[str]) -> None:
    """Raise InvalidInput if the parameters of a load bring a configuration or files of the client's."""
    for name in names:
        if name == "config" or name.startswith("file:"):
            raise InvalidInput(
                f"parameter {name!r:.60} is not served here: a model is loaded as it was published; publish "
                "another version, and leave the parameter out"
            )
