"""One column of the data: what a spec declares, what its Arrow type allows, what training rows teach."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from raymill.config import Spec
from raymill.errors import DataError, nearest

UNKNOWN_CODE = 0
"""Code of a category that training never saw, and of a null under `nulls: unknown`."""


class Column(Spec):
    """What the spec says of one feature."""

    kind: Literal["auto", "numeric", "categorical"] = "auto"
    """auto: text and dictionaries are categorical, numbers and booleans numeric."""
    nulls: Literal["error", "mean", "unknown"] | float = "error"
    """error: refuse the row. mean (numeric): the training mean plus an indicator; trees take the
    null as missing. unknown (categorical): the code of an unseen category. A number (numeric):
    that constant."""
    max_vocabulary: int = Field(default=65_536, ge=1)
    """Most frequent categories kept; the rest become unknown."""


class FittedColumn(Spec):
    """One feature with what the training rows taught."""

    name: str
    kind: Literal["numeric", "categorical"]
    dtype: str
    """Dtype of a request's value, one of `tensors.DTYPES`; microseconds since 1970 UTC for a time."""
    width: int = 1
    """Numbers a value holds: 1, or the length of a fixed-size list."""
    origin_us: int | None = None
    """For a time: the earliest of training; the model sees float32 seconds since then, which keeps
    seconds apart over years where seconds since 1970 would not be."""
    nulls: Literal["error", "mean", "unknown"] | float
    null_count: int
    mean: float = 0.0
    std: float = 1.0
    """Population standard deviation; 1 where the column is constant."""
    minimum: float | None = None
    maximum: float | None = None
    vocabulary: tuple[str | int, ...] = ()
    """Categories by falling frequency; the code of `vocabulary[i]` is i + 1."""

    @property
    def nullable(self) -> bool:
        return self.nulls != "error"

    @property
    def fill(self) -> float:
        """What stands for a null in a numeric column that allows one: the constant, or NaN."""
        return self.nulls if isinstance(self.nulls, int | float) else float("nan")

    @cached_property
    def codes(self) -> dict[str | int, int]:
        return {value: code for code, value in enumerate(self.vocabulary, UNKNOWN_CODE + 1)}

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """Return the smallest and largest number a request may give: the dtype's, and float32's at most."""
        if self.dtype == "bool":
            return 0, 1
        if self.dtype.startswith("float"):
            limit = float(np.finfo("float16" if self.dtype == "float16" else "float32").max)
            return -limit, limit
        limits = np.iinfo(self.dtype)
        return int(limits.min), int(limits.max)

    @cached_property
    def types(self) -> tuple[type, ...]:
        """Return Python's types of a number that a request may give."""
        return (bool,) if self.dtype == "bool" else (int, float) if "float" in self.dtype else (int,)

    @cached_property
    def arrow_vocabulary(self) -> pa.Array:
        return pa.array(self.vocabulary, pa.string() if self.dtype == "string" else pa.int64())


def is_time(arrow_type: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(arrow_type) or pa.types.is_date(arrow_type))


def is_text(arrow_type: pa.DataType) -> bool:
    """Whether it is text, in whichever of Arrow's forms: writers differ, and the stored bytes do not."""
    kind = arrow_type.value_type if pa.types.is_dictionary(arrow_type) else arrow_type
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_kind(kind) for is_kind in kinds)


def input_width(arrow_type: pa.DataType) -> int:
    """Return the numbers that a value of an Arrow type holds: a fixed-size list's length, else 1."""
    return int(arrow_type.list_size) if pa.types.is_fixed_size_list(arrow_type) else 1


def input_dtype(arrow_type: pa.DataType, name: str) -> str:
    """Return our dtype for an Arrow column type; for a fixed-size list that of its elements.

    Raises:
        DataError: a type no model input can hold; the message says how to derive one that can.
    """
    if pa.types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    if pa.types.is_fixed_size_list(arrow_type) and _is_number(arrow_type.value_type):
        arrow_type = arrow_type.value_type
    if pa.types.is_boolean(arrow_type):
        return "bool"
    if is_text(arrow_type):
        return "string"
    if pa.types.is_integer(arrow_type) or pa.types.is_floating(arrow_type):
        return str(arrow_type.to_pandas_dtype().__name__)
    if pa.types.is_decimal(arrow_type):
        return "float64"
    if is_time(arrow_type):
        return "int64"
    if pa.types.is_list(arrow_type) or pa.types.is_large_list(arrow_type):
        raise DataError(
            f"column {name!r} is {arrow_type}, lists of any length, which no tensor holds; pad or pool "
            "them to one length when preparing (a fixed-size list), or leave it out of `features`"
        )
    raise DataError(
        f"column {name!r} has type {arrow_type}, which is no model input; derive a number, "
        "a boolean or text from it when preparing, or leave it out of `features`"
    )


def _is_number(arrow_type: pa.DataType) -> bool:
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return any(kind(arrow_type) for kind in kinds)


def kind_of(column: Column, arrow_type: pa.DataType, name: str) -> Literal["numeric", "categorical"]:
    """Return the kind of a column of an Arrow type. Raises DataError as `resolve_kind` does."""
    dtype, width = input_dtype(arrow_type, name), input_width(arrow_type)
    return resolve_kind(column, dtype, name, width=width, time=is_time(arrow_type))


def resolve_kind(
    column: Column, dtype: str, name: str, *, width: int = 1, time: bool = False
) -> Literal["numeric", "categorical"]:
    """Return the kind of a column of `dtype`, `width` numbers a value, a time or not.

    Raises:
        DataError: the declared kind or null policy does not fit the dtype.
    """
    kind = column.kind if column.kind != "auto" else "categorical" if dtype == "string" else "numeric"
    what = "a time" if time else f"vectors of {dtype}" if width > 1 else dtype
    if kind == "numeric" and dtype == "string":
        raise DataError(
            f"column {name!r} is declared numeric but holds text; declare it categorical, "
            "or cast it when preparing"
        )
    if kind == "categorical" and (dtype == "bool" or dtype.startswith("float") or width > 1 or time):
        raise DataError(
            f"column {name!r} is declared categorical but holds {what}; declare it numeric, or cast it "
            "to an integer or text when preparing"
        )
    allowed = ["error", "unknown"] if kind == "categorical" else ["error", "mean"]
    if kind == "numeric" and not time:
        allowed.append("a number")
    given = column.nulls if isinstance(column.nulls, str) else "a number"
    if given not in allowed:
        raise DataError(
            f"column {name!r} is {kind}{' (a time)' if time else ''}, where `nulls` is one of "
            f"{', '.join(allowed)}; got {column.nulls!r}"
        )
    return kind


def check_schema(schema: pa.Schema, features: Mapping[str, Column], target: str, where: str) -> None:
    """Refuse a schema that lacks a declared column or holds it in a type that cannot serve.

    Raises:
        DataError: names the column, what was found, and the nearest right name.
    """
    for name in (*features, target):
        if name not in schema.names:
            raise DataError(
                f"{where} has no column {name!r}; have: {', '.join(schema.names)}."
                f"{nearest(name, schema.names)}"
            )
    for name, column in features.items():
        kind_of(column, schema.field(name).type, name)
    if target in features:
        raise DataError(
            f"target {target!r} is also listed under features; a model must not see its own answer"
        )


def refuse_nulls(column: FittedColumn, count: int) -> None:
    if count and not column.nullable:
        way_out = "mean or a number" if column.kind == "numeric" else "unknown"
        raise DataError(
            f"column {column.name!r} holds {count} nulls and its policy is error; "
            f"declare `nulls: {way_out}`, or drop those rows when preparing"
        )
