"""Plain values of a request to numbers and codes; every value is checked, for nobody else has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raymill.columns import UNKNOWN_CODE, FittedColumn
from raymill.errors import InvalidInput

# N = rows, W = width of a vector


def numbers(column: FittedColumn, values: Sequence[Any] | np.ndarray) -> np.ndarray:
    origin = column.origin_us
    if isinstance(values, np.ndarray):
        values = values.tolist()  # numbers of the machine's to Python's, to be checked like any other
    fill = column.fill if column.nullable else None
    low, high = column.bounds
    allowed = (bool,) if column.dtype == "bool" else (int, float) if "float" in column.dtype else (int,)
    out = np.empty(len(values), np.float32)
    for row, value in enumerate(values):
        if type(value) in allowed and low <= value <= high:  # NaN is in no range
            out[row] = value if origin is None else (value - origin) * 1e-6
        elif value is None and fill is not None:
            out[row] = fill
        else:
            raise InvalidInput(_wrong_value(column, value, row))
    return out


def vectors(column: FittedColumn, values: Sequence[Any]) -> np.ndarray:
    """Return float32 [N, W] of vectors, each a sequence of `column.width` numbers or null."""
    out = np.empty((len(values), column.width), np.float32)
    for row, value in enumerate(values):
        if value is None and column.nullable:
            out[row] = column.fill
        elif isinstance(value, list | tuple | np.ndarray) and len(value) == column.width:
            out[row] = numbers(column, value)
        else:
            raise InvalidInput(
                f"input {column.name!r}, row {row}: expected {column.width} numbers, got {value!r:.60}"
            )
    return out


def codes(column: FittedColumn, values: Sequence[Any]) -> list[int]:
    codes, allowed = (
        column.codes,
        str if column.dtype == "string" else bool if column.dtype == "bool" else int,
    )
    out = []
    for row, value in enumerate(values):
        if isinstance(value, np.generic):
            value = value.item()
        if type(value) is allowed:
            out.append(codes.get(value, UNKNOWN_CODE))
        elif value is None and column.nullable:
            out.append(UNKNOWN_CODE)
        else:
            raise InvalidInput(_wrong_value(column, value, row))
    return out


def _wrong_value(column: FittedColumn, value: Any, row: int) -> str:
    if value is None:
        return f"input {column.name!r}, row {row}: null, but this input has no null policy"
    if column.kind == "numeric" and isinstance(value, int | float) and not isinstance(value, bool):
        low, high = column.bounds
        if value != value or not low <= value <= high:
            return f"input {column.name!r}, row {row}: {value!r:.60} is outside the range of {column.dtype}"
    return (
        f"input {column.name!r}, row {row}: expected {column.dtype}, got {type(value).__name__} {value!r:.60}"
    )
