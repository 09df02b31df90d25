"""From raw columns to model inputs: what a spec declares, what training rows teach, and the encoding.

The fitted `Encoder` is plain JSON. It is learned from the training rows only, stored in every
published version, and is the same code for training batches and for served requests, so the two
cannot drift apart. It does what no tensor program can (text to codes, nulls to NaN); what is
arithmetic (standardising, embedding) lives inside the model's own program.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from raymill.config import Spec
from raymill.errors import DataError, InvalidInput, nearest
from raymill.evaluation import Task
from raymill.tensors import Signature, TensorSpec

# N = rows, F = numeric columns, C = categorical columns, K = classes

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
    """Dtype of a request's value, one of `tensors.DTYPES`."""
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

    @cached_property
    def codes(self) -> dict[str | int, int]:
        return {value: code for code, value in enumerate(self.vocabulary, UNKNOWN_CODE + 1)}

    @cached_property
    def arrow_vocabulary(self) -> pa.Array:
        return pa.array(self.vocabulary, pa.string() if self.dtype == "string" else pa.int64())


@dataclass(frozen=True)
class Features:
    """Encoded rows: all numeric columns in one matrix, all categorical ones in another."""

    numeric_NF: np.ndarray
    """float32, C-contiguous; NaN marks a null under `nulls: mean`."""
    codes_NC: np.ndarray
    """int32, C-contiguous; 0 is unknown."""

    def __len__(self) -> int:
        return len(self.numeric_NF)

    def take(self, rows: np.ndarray | slice) -> Features:
        return Features(self.numeric_NF[rows], self.codes_NC[rows])

    @staticmethod
    def concatenate(parts: Sequence[Features]) -> Features:
        if len(parts) == 1:
            return parts[0]
        return Features(
            np.concatenate([part.numeric_NF for part in parts]),
            np.concatenate([part.codes_NC for part in parts]),
        )


class Encoder(Spec):
    """Fitted columns and target; encodes Arrow batches for training and plain columns for serving."""

    columns: tuple[FittedColumn, ...]
    target: str
    task: Task
    classes: tuple[str | int, ...] = ()
    """Class labels in index order (multiclass); empty otherwise."""

    @cached_property
    def numeric(self) -> tuple[FittedColumn, ...]:
        return tuple(column for column in self.columns if column.kind == "numeric")

    @cached_property
    def categorical(self) -> tuple[FittedColumn, ...]:
        return tuple(column for column in self.columns if column.kind == "categorical")

    @cached_property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def label_dtype(self) -> type[np.generic]:
        """float32 for binary (0/1) and regression, int64 class indices for multiclass."""
        return np.int64 if self.task == "multiclass" else np.float32

    @property
    def scores_per_row(self) -> int:
        return len(self.classes) if self.task == "multiclass" else 1

    def signature(self) -> Signature:
        """Return the model's inputs, one per raw column and shape [rows], and its output.

        The output is `probability` float32 [rows] (binary), `probabilities` float32
        [rows, classes] (multiclass) or `prediction` float32 [rows] (regression).
        """
        inputs = tuple(
            TensorSpec(
                name=column.name,
                dtype=column.dtype,  # type: ignore[arg-type]
                nullable=column.nullable,
                categories=len(column.vocabulary) if column.kind == "categorical" else None,
            )
            for column in self.columns
        )
        output = {
            "binary": TensorSpec(name="probability", dtype="float32"),
            "multiclass": TensorSpec(name="probabilities", dtype="float32", shape=(-1, len(self.classes))),
            "regression": TensorSpec(name="prediction", dtype="float32"),
        }[self.task]
        return Signature(inputs=inputs, outputs=(output,))

    def encode_table(self, table: pa.Table | pa.RecordBatch) -> Features:
        """Return the encoded rows of an Arrow table that holds every column.

        Raises:
            DataError: a null in a column whose policy is error.
        """
        features = self.empty(table.num_rows)
        self.encode_into(table, features)
        return features

    def empty(self, rows: int) -> Features:
        """Return uninitialised features of `rows` rows, for `encode_into` to fill."""
        return Features(
            np.empty((rows, len(self.numeric)), np.float32), np.empty((rows, len(self.categorical)), np.int32)
        )

    def encode_into(self, table: pa.Table | pa.RecordBatch, out: Features) -> None:
        """Encode into `out`, which may be views of a larger buffer. Raises as `encode_table` does."""
        for j, column in enumerate(self.numeric):
            out.numeric_NF[:, j] = _numeric(column, table.column(column.name))
        for j, column in enumerate(self.categorical):
            out.codes_NC[:, j] = _codes(column, table.column(column.name))

    def encode_labels(self, values: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return labels: float32 [N] (binary as 0/1, regression) or int64 [N] class indices.

        Raises:
            DataError: a null label, or a class that training never saw.
        """
        if values.null_count:
            raise DataError(
                f"target {self.target!r} has {values.null_count} nulls; drop rows without an outcome first"
            )
        if self.task != "multiclass":
            return np.array(values.cast(pa.float32()).to_numpy(zero_copy_only=False), np.float32)
        known = pa.array(self.classes)
        index = pc.index_in(values.cast(known.type), value_set=known)
        if index.null_count:
            unseen = pc.unique(values.filter(pc.is_null(index))).to_pylist()[:5]
            raise DataError(f"target {self.target!r} has classes that training never saw: {unseen}")
        return np.array(index.to_numpy(zero_copy_only=False), np.int64)

    def encode_columns(self, columns: Mapping[str, Sequence[Any]]) -> Features:
        """Return the encoded rows of plain columns, one sequence a column, None for null.

        Raises:
            InvalidInput: a missing or unknown column, unequal lengths, a value of the wrong type, or
                a null without a policy; the message names the column and the row.
        """
        lengths = {len(columns[name]) for name in columns}
        if columns.keys() != set(self.names):
            raise InvalidInput(_column_mismatch(columns, self.names))
        if len(lengths) > 1:
            sizes = {name: len(values) for name, values in columns.items()}
            raise InvalidInput(f"all columns need the same number of rows, got {sizes}")
        rows = lengths.pop() if lengths else 0
        features = self.empty(rows)
        for j, column in enumerate(self.numeric):
            features.numeric_NF[:, j] = _plain_numeric(column, columns[column.name])
        for j, column in enumerate(self.categorical):
            features.codes_NC[:, j] = _plain_codes(column, columns[column.name])
        return features


def input_dtype(arrow_type: pa.DataType, name: str) -> str:
    """Return our dtype for an Arrow column type.

    Raises:
        DataError: a type no model input can hold yet; the message says how to derive one that can.
    """
    if pa.types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    if pa.types.is_boolean(arrow_type):
        return "bool"
    if pa.types.is_string(arrow_type) or pa.types.is_large_string(arrow_type):
        return "string"
    if pa.types.is_integer(arrow_type) or pa.types.is_floating(arrow_type):
        return str(arrow_type.to_pandas_dtype().__name__)
    if pa.types.is_decimal(arrow_type):
        return "float64"
    raise DataError(
        f"column {name!r} has type {arrow_type}, which is no model input; derive a number, "
        "a boolean or text from it when preparing, or leave it out of `features`"
    )


def resolve_kind(column: Column, dtype: str, name: str) -> Literal["numeric", "categorical"]:
    """Return the kind of a column of `dtype`.

    Raises:
        DataError: the declared kind or null policy does not fit the dtype.
    """
    kind = column.kind if column.kind != "auto" else "categorical" if dtype == "string" else "numeric"
    if kind == "numeric" and dtype == "string":
        raise DataError(
            f"column {name!r} is declared numeric but holds text; declare it categorical, "
            "or cast it when preparing"
        )
    if kind == "categorical" and (dtype == "bool" or dtype.startswith("float")):
        raise DataError(
            f"column {name!r} is declared categorical but holds {dtype}; declare it numeric, or cast it "
            "to an integer or text when preparing"
        )
    allowed = ("error", "unknown") if kind == "categorical" else ("error", "mean", "a number")
    given = column.nulls if isinstance(column.nulls, str) else "a number"
    if given not in allowed:
        raise DataError(
            f"column {name!r} is {kind}, where `nulls` is one of {', '.join(allowed)}; got {column.nulls!r}"
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
        resolve_kind(column, input_dtype(schema.field(name).type, name), name)
    if target in features:
        raise DataError(f"target {target!r} is also listed under features; a model must not see its own answer")


def _column_mismatch(given: Iterable[str], expected: Sequence[str]) -> str:
    missing = [name for name in expected if name not in set(given)]
    extra = [name for name in given if name not in expected]
    parts = []
    if missing:
        parts.append(f"missing inputs: {', '.join(missing)}")
    if extra:
        parts.append(f"unknown inputs: {', '.join(extra)}.{nearest(extra[0], expected)}")
    return "; ".join(parts)


def refuse_nulls(column: FittedColumn, count: int) -> None:
    if count and not column.nullable:
        way_out = "mean or a number" if column.kind == "numeric" else "unknown"
        raise DataError(
            f"column {column.name!r} holds {count} nulls and its policy is error; "
            f"declare `nulls: {way_out}`, or drop those rows when preparing"
        )


def _numeric(column: FittedColumn, values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    refuse_nulls(column, values.null_count)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if not pa.types.is_floating(values.type):
        values = values.cast(pa.float32(), safe=False)
    if values.null_count:
        fill = column.nulls if isinstance(column.nulls, int | float) else float("nan")
        values = pc.fill_null(values, pa.scalar(fill, values.type))
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _codes(column: FittedColumn, values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    refuse_nulls(column, values.null_count)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    index = pc.index_in(values.cast(column.arrow_vocabulary.type), value_set=column.arrow_vocabulary)
    return np.asarray(pc.fill_null(pc.add(index, 1), UNKNOWN_CODE).to_numpy(zero_copy_only=False))


def _plain_numeric(column: FittedColumn, values: Sequence[Any]) -> np.ndarray:
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        return values
    fill: float | None = None
    if column.nullable:
        fill = column.nulls if isinstance(column.nulls, int | float) else float("nan")
    allowed = (bool,) if column.dtype == "bool" else (int, float) if "float" in column.dtype else (int,)
    out = np.empty(len(values), np.float32)
    for row, value in enumerate(values):
        if type(value) in allowed:
            out[row] = value
        elif value is None and fill is not None:
            out[row] = fill
        else:
            raise InvalidInput(_wrong_value(column, value, row))
    return out


def _plain_codes(column: FittedColumn, values: Sequence[Any]) -> list[int]:
    codes, allowed = column.codes, str if column.dtype == "string" else bool if column.dtype == "bool" else int
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
    return f"input {column.name!r}, row {row}: expected {column.dtype}, got {type(value).__name__} {value!r:.60}"
