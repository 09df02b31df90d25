"""Columns that came as JSON lists, made numpy arrays at once where that is quicker than value by value."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from raymill.tensors import Signature, TensorSpec

MIN_VALUES = 8  # below it, checking values one by one costs less

_CODES = {
    "int8": "b", "int16": "h", "int32": "i", "int64": "q", "uint8": "B", "uint16": "H", "uint32": "I",
    "uint64": "Q", "float32": "d", "float64": "d",
}  # fmt: skip
_WIDE = {"float32": "float64"}  # as "f" a number too large would silently be infinite

Columns = Mapping[str, Sequence[Any] | np.ndarray]


def arrays(columns: Mapping[str, Sequence[Any]], signature: Signature, body: bytes) -> Columns:
    """Return the same columns, those of numbers alone as arrays.

    `struct` converts and checks range and type in C, 8 ns a number against 45 in a loop, and refuses
    what is no number, which then stays a list for the encoder to judge. But it takes true for 1, so
    that nothing is converted when the text `body` holds a boolean anywhere.
    """
    rows = len(next(iter(columns.values()), ()))
    specs = [spec for spec in signature.inputs if spec.dtype in _CODES and spec.categories is None]
    widest = max((spec.shape[-1] for spec in specs if len(spec.shape) > 1), default=1)
    if rows * widest < MIN_VALUES or b"true" in body or b"false" in body:
        return columns
    found: dict[str, Sequence[Any] | np.ndarray] = dict(columns)
    for spec in specs:
        values = columns.get(spec.name)
        array = packed(values, spec) if isinstance(values, list | tuple) else None
        if array is not None:
            found[spec.name] = array
    return found


def packed(values: Sequence[Any], spec: TensorSpec) -> np.ndarray | None:
    """Return the values of an input, flat or a list for each vector, as [rows] or [rows, width].

    None where they are not numbers of its dtype alone: a null, a text, one out of range.
    """
    shape: tuple[int, ...] = (-1, *spec.shape[1:])
    try:
        if len(shape) == 2 and type(values[0]) is list:
            if set(map(len, values)) != {shape[1]}:
                return None
            values = list(chain.from_iterable(values))
        data = struct.pack(f"{len(values)}{_CODES[spec.dtype]}", *values)
    except (struct.error, OverflowError, TypeError, KeyError):
        return None
    return np.frombuffer(data, _WIDE.get(spec.dtype, spec.dtype)).reshape(shape)
