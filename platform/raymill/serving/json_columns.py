"""Columns that came as JSON lists, made numpy arrays at once where that is quicker than value by value.

`struct` converts, and checks type and range, in C: 8 ns a number against 45 in a loop of Python. What it
refuses stays a list, and the encoder says which value is wrong. It takes true for 1; so the types of few
values are looked at, and of many those that came out as 0 or 1, which is quicker.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from raymill.tensors import Signature, TensorSpec

MIN_VALUES = 8  # below it, checking values one by one costs less
FEW = 256  # below it, looking at every type costs less than numpy's calls

_CODES = {
    "int8": "b", "int16": "h", "int32": "i", "int64": "q", "uint8": "B", "uint16": "H", "uint32": "I",
    "uint64": "Q", "float32": "d", "float64": "d",
}  # fmt: skip
_FLOATS = ("float32", "float64")

# F = inputs that are a float each, N = rows

Columns = Mapping[str, Sequence[Any] | np.ndarray]


def arrays(columns: Mapping[str, Sequence[Any]], signature: Signature) -> Columns:
    """Return the same columns, those of numbers alone as arrays."""
    rows = len(next(iter(columns.values()), ()))
    found: dict[str, Sequence[Any] | np.ndarray] = dict(columns)
    specs = [spec for spec in signature.inputs if spec.name in found and spec.dtype in _CODES]
    single = [spec.name for spec in specs if spec.dtype in _FLOATS and len(spec.shape) == 1]
    if rows >= MIN_VALUES and set(map(len, columns.values())) == {rows} and single:
        flat = list(chain.from_iterable([columns[name] for name in single]))
        matrix = _packed(flat, "d") if len(flat) == rows * len(single) else None
        if matrix is not None:
            found.update(zip(single, matrix.reshape(len(single), rows), strict=True))
            specs = [spec for spec in specs if spec.name not in single]
    for spec in specs:
        array = packed(columns[spec.name], spec)
        if array is not None:
            found[spec.name] = array
    return found


def packed(values: Sequence[Any], spec: TensorSpec) -> np.ndarray | None:
    """Return the values of an input, flat or a list for each vector, as [rows] or [rows, width].

    None where they are too few for it to pay, or not numbers of its dtype alone.
    """
    if spec.categories is not None or spec.dtype not in _CODES or len(values) == 0:
        return None
    if len(spec.shape) == 1:
        return _packed(values, _CODES[spec.dtype])
    if type(values[0]) is list:
        if set(map(type, values)) != {list} or set(map(len, values)) != {spec.shape[1]}:
            return None
        values = list(chain.from_iterable(values))
    array = _packed(values, _CODES[spec.dtype])
    return None if array is None else array.reshape(-1, spec.shape[1])


def kind(value: Any) -> str:
    """Return what a JSON value is, for a message."""
    if isinstance(value, list) and not value:
        return "an empty list"
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _packed(flat: Sequence[Any], code: str) -> np.ndarray | None:
    if len(flat) < MIN_VALUES:
        return None
    try:
        array = np.frombuffer(struct.pack(f"{len(flat)}{code}", *flat), code)
    except (struct.error, OverflowError, TypeError):
        return None
    if len(flat) < FEW:
        return None if bool in set(map(type, flat)) else array
    suspects = np.flatnonzero((array == 0) | (array == 1)).tolist()
    return None if any(type(flat[place]) is bool for place in suspects) else array
