"""Values of a request to numbers and codes; every value is checked, for nobody else has.

A column comes as a sequence of Python values, None for null, or as a numpy array, whose values have
one type already and are checked together. NaN is null, where the column has a policy for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from raymill.columns import UNKNOWN_CODE, FittedColumn
from raymill.errors import InvalidInput

# N = rows, W = width of a vector

Values = Sequence[Any] | np.ndarray
_PLACED = (np.dtype(np.float32), np.dtype(np.float64))


def floats(column: FittedColumn, values: np.ndarray) -> np.ndarray | None:
    """Return an array of floats, contiguous float32 or float64 [N] or [N, W], if it may be the column's.

    What is in it may be infinite or NaN: see `settle`.
    """
    dtype = values.dtype
    shaped = values.ndim == 1 if column.width == 1 else values.shape[1:] == (column.width,)
    if dtype.kind != "f" or not shaped or not _fits(column, dtype):
        return None
    if dtype in _PLACED and values.flags.c_contiguous:
        return values
    return np.ascontiguousarray(values, np.float32 if dtype.itemsize <= 4 else np.float64)


def numbers(column: FittedColumn, values: Values, vector: int | None = None) -> np.ndarray | list[float]:
    """Return finite numbers [N] of any dtype, but for a null's fill. Not for arrays that `floats` takes.

    Args:
        vector: The row whose elements these are; by default each is a row.
    """
    origin = column.origin_us
    if isinstance(values, np.ndarray) and values.ndim == 1 and _fits(column, values.dtype):
        if origin is None:
            return values
        return (values.astype(np.float64) - origin) * 1e-6  # an int64 would wrap around, silently
    fill = column.fill if column.nullable else None
    (low, high), types = column.bounds, column.types
    out = []
    for row, value in enumerate(_listed(values)):
        if type(value) in types and low <= value <= high:  # NaN is in no range
            out.append(value if origin is None else (value - origin) * 1e-6)
        elif is_whole(value) and column.dtype != "bool" and low <= value <= high:
            out.append(value if origin is None else (int(value) - origin) * 1e-6)
        elif fill is not None and _is_null(value):
            out.append(fill)
        else:
            raise InvalidInput(_wrong_value(column, value, *((row,) if vector is None else (vector, row))))
    return out


def vectors(column: FittedColumn, values: Values) -> np.ndarray:
    """Return [N, W] of vectors, each a sequence of `column.width` numbers or null; else as `numbers`."""
    if isinstance(values, np.ndarray) and values.shape[1:] == (column.width,) and _fits(column, values.dtype):
        return values
    out = np.empty((len(values), column.width), np.float32)
    for row, value in enumerate(_listed(values)):
        if value is None and column.nullable:
            out[row] = column.fill
        elif isinstance(value, list | tuple | np.ndarray) and len(value) == column.width:
            out[row] = numbers(column, _listed(value), row)  # value by value: nobody settles these
        else:
            raise InvalidInput(
                f"input {column.name!r}, row {row}: expected {column.width} numbers, got {value!r:.60}"
            )
    return out


def settle(column: FittedColumn, placed_NW: np.ndarray, values: Values) -> None:
    """Fill the nulls of an array of `floats` where they were placed, and refuse what float32 cannot hold.

    Apart from `floats`, because placing them says at no cost whether anything is not finite.

    Raises:
        InvalidInput: NaN without a null policy, or a number beyond the column's range.
    """
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
        return
    low, high = column.bounds
    null = np.isnan(values)
    bad = ~((values >= low) & (values <= high)) & ~(null & column.nullable)
    if bad.any():
        raise InvalidInput(_wrong_value(column, values[bad][0].item(), *np.argwhere(bad)[0].tolist()))
    placed_NW[null.reshape(placed_NW.shape)] = column.fill


def codes(column: FittedColumn, values: Values) -> list[int]:
    """Return the codes [N] of a categorical column's values."""
    known, listed = column.codes, _listed(values)
    if column.dtype == "string":
        with suppress(TypeError, KeyError):  # for a null, an unseen category, or what is no text
            return list(map(known.__getitem__, listed))  # nothing but text equals text
    allowed = str if column.dtype == "string" else int
    out = []
    for row, value in enumerate(listed):
        if type(value) is allowed or (allowed is int and is_whole(value)):
            code = known.get(value, UNKNOWN_CODE)
            if code == UNKNOWN_CODE and allowed is int and _beyond(column, value):
                raise InvalidInput(_wrong_value(column, value, row))
            out.append(code)
        elif column.nullable and _is_null(value):
            out.append(UNKNOWN_CODE)
        else:
            raise InvalidInput(_wrong_value(column, value, row))
    return out


def is_whole(value: Any) -> bool:
    """Whether a value is a float that is an integer, such as 2.0, which JSON does not tell from 2."""
    return type(value) is float and value.is_integer()


def _is_null(value: Any) -> bool:
    return value is None or (type(value) is float and value != value)


def _beyond(column: FittedColumn, value: float) -> bool:
    low, high = column.bounds
    return not low <= value <= high


def _fits(column: FittedColumn, dtype: np.dtype) -> bool:
    """Whether every number of `dtype` may be one of the column's, but for the ends of float ranges."""
    if column.dtype in ("float32", "float64"):
        return dtype.kind in "iuf"
    if dtype == column.dtype:
        return True
    return column.dtype != "bool" and dtype.kind in "iu" and bool(np.can_cast(dtype, column.dtype))


def _listed(values: Values) -> Sequence[Any]:
    """Return Python's values for numpy's, to be checked like any other."""
    if isinstance(values, np.ndarray):
        return values.tolist()  # type: ignore[no-any-return]
    return values


def _wrong_value(column: FittedColumn, value: Any, row: int, element: int | None = None) -> str:
    where = f"input {column.name!r}, row {row}" + ("" if element is None else f", element {element}")
    if value is None:
        return f"{where}: null, but this input has no null policy"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and column.dtype != "string" and _beyond(column, value):
        limit = "float32, as which a float64 is computed" if column.dtype == "float64" else column.dtype
        return f"{where}: {value!r:.60} is outside the range of {limit}"
    return f"{where}: expected {column.dtype}, got {type(value).__name__} {value!r:.60}"
