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
from operator import itemgetter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill import encode_arrow, encode_plain
from raymill.columns import Column, FittedColumn, check_schema, input_dtype, resolve_kind
from raymill.config import Spec
from raymill.errors import DataError, InvalidInput, nearest, some
from raymill.evaluation import Task
from raymill.kernels import block_rows, gather, place, stack, tile_rows, weave
from raymill.tensors import Signature, TensorSpec

__all__ = [
    "Column", "Encoder", "Features", "FittedColumn", "check_schema", "input_dtype", "resolve_kind",
]  # fmt: skip

# N = rows, F = numeric inputs (an element of a vector is one), C = categorical columns, K = classes,
# W = width of a vector


@dataclass(slots=True, eq=False)
class Features:
    """Encoded rows: all numeric columns in one matrix, all categorical ones in another."""

    numeric_NF: np.ndarray
    """float32, C-contiguous; NaN marks a null under `nulls: mean`."""
    codes_NC: np.ndarray
    """int32, C-contiguous; 0 is unknown."""

    def __len__(self) -> int:
        return len(self.numeric_NF)

    def take(self, rows: np.ndarray | slice) -> Features:
        """Return some rows: views for a slice, copies in the given order for row numbers."""
        if isinstance(rows, slice):
            return Features(self.numeric_NF[rows], self.codes_NC[rows])
        return Features(gather(self.numeric_NF, rows), gather(self.codes_NC, rows))

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
        """One entry for every column of `Features.numeric_NF`; "name[i]" for element i of a vector."""
        inputs: list[FittedColumn] = []
        for column in self.columns:
            if column.kind == "numeric" and column.width == 1:
                inputs.append(column)
            elif column.kind == "numeric":
                names = [f"{column.name}[{i}]" for i in range(column.width)]
                inputs += [column.model_copy(update={"name": name, "width": 1}) for name in names]
        return tuple(inputs)

    @cached_property
    def categorical(self) -> tuple[FittedColumn, ...]:
        return tuple(column for column in self.columns if column.kind == "categorical")

    @cached_property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @cached_property
    def _places(self) -> dict[str, tuple[FittedColumn, int]]:
        """Each column with its first place in `numeric_NF`, or its place in `codes_NC`."""
        places, numeric, categorical = {}, 0, 0
        for column in self.columns:
            if column.kind == "numeric":
                places[column.name] = column, numeric
                numeric += column.width
            else:
                places[column.name] = column, categorical
                categorical += 1
        return places

    def place(self, name: str) -> slice:
        """Return where a numeric column's values are among the columns of `Features.numeric_NF`."""
        column, first = self._places[name]
        return slice(first, first + column.width)

    def column_bytes(self, name: str) -> int:
        """Return the bytes that one row's value of a column, or its label, takes when encoded."""
        if name in self._places:
            return 4 * self._places[name][0].width
        return np.dtype(self.label_dtype).itemsize

    @cached_property
    def row_bytes(self) -> int:
        """Return the bytes of one row's encoded features."""
        return sum(self.column_bytes(name) for name in self.names)

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
                shape=(-1,) if column.width == 1 else (-1, column.width),
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
        self.finish(features)
        return features

    def empty(self, rows: int) -> Features:
        """Return uninitialised features of `rows` rows, for `encode_into` to fill."""
        return Features(
            np.empty((rows, len(self.numeric)), np.float32), np.empty((rows, len(self.categorical)), np.int32)
        )

    def encode_into(self, table: pa.Table | pa.RecordBatch, out: Features, *, tiled: bool = False) -> None:
        """Encode the columns that `table` holds into `out`, whose rows are there after `finish`.

        Tables of all columns are encoded one after the other, in any order; `out` may be some rows
        of a larger buffer. Raises as `encode_table` does.

        Args:
            tiled: Some numeric columns are there already, in blocks of `tile_rows` rows.
        """
        for kind, matrix in (("numeric", out.numeric_NF), ("categorical", out.codes_NC)):
            rows = tile_rows(matrix) if tiled and kind == "numeric" else block_rows(matrix)
            run: list[np.ndarray] = []  # columns whose places are next to each other, from `first` to `end`
            first = end = 0
            for j, column in self._placed(kind, table.schema.names):
                if j != end:
                    stack(run, matrix, first, rows)
                    run, first = [], j
                run.append(_encode(column, table.column(column.name)))
                end = j + column.width
            stack(run, matrix, first, rows)

    def _placed(self, kind: str, names: Sequence[str]) -> list[tuple[int, FittedColumn]]:
        """Return those of the named columns that are of a kind, with their first places, in their order."""
        found = [self._places[name] for name in names if name in self._places]
        return sorted(((j, column) for column, j in found if column.kind == kind), key=itemgetter(0))

    def finish(self, out: Features, *, tiled: bool = False) -> None:
        """Make rows of `out`, once every column has been encoded into it, `tiled` as there."""
        numeric, categorical = self._widths
        weave(out.numeric_NF, numeric, (tile_rows if tiled else block_rows)(out.numeric_NF))
        weave(out.codes_NC, categorical, block_rows(out.codes_NC))

    @cached_property
    def _widths(self) -> tuple[np.ndarray, np.ndarray]:
        """Places of each numeric and of each categorical column, int32."""
        numeric = [column.width for column in self.columns if column.kind == "numeric"]
        return np.array(numeric, np.int32), np.ones(len(self.categorical), np.int32)

    def encode_labels(self, values: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return labels: float32 [N] (binary as 0/1, regression) or int64 [N] class indices.

        Raises:
            DataError: a null label, or a class that training never saw.
        """
        self.refuse_null_labels(values.null_count)
        if self.task != "multiclass":
            return np.array(values.cast(pa.float32()).to_numpy(zero_copy_only=False), np.float32)
        known = pa.array(self.classes)
        index = pc.index_in(values.cast(known.type), value_set=known)
        if index.null_count:
            unseen = pc.unique(values.filter(pc.is_null(index))).to_pylist()[:5]
            raise DataError(f"target {self.target!r} has classes that training never saw: {unseen}")
        return np.array(index.to_numpy(zero_copy_only=False), np.int64)

    def refuse_null_labels(self, count: int) -> None:
        """Raise DataError if there are labels that are null."""
        if count:
            raise DataError(f"target {self.target!r} has {count} nulls; drop rows without an outcome first")

    def encode_columns(self, columns: Mapping[str, encode_plain.Values]) -> Features:
        """Return the encoded rows of plain columns: sequences, None for null, or numpy arrays.

        An array has shape [rows], or [rows, width] for a vector, and holds numbers, or text as
        objects; NaN in an array of floats is null.

        Raises:
            InvalidInput: a missing or unknown column, unequal lengths, a value of the wrong type, or
                a null without a policy; the message names the column and the row.
        """
        if columns.keys() != self._places.keys():
            raise InvalidInput(_column_mismatch(columns, self.names))
        lengths = set(map(len, columns.values()))
        if len(lengths) > 1:
            sizes = {name: len(values) for name, values in columns.items()}
            raise InvalidInput(f"all columns need the same number of rows, got {sizes!r:.600}")
        features = self.empty(lengths.pop() if lengths else 0)
        if not self._place(columns, features):
            for name, (column, j) in self._places.items():
                if column.kind == "numeric":
                    placed_NW = features.numeric_NF[:, j : j + column.width]
                    encode_plain.settle(column, placed_NW, columns[name])
        return features

    def _place(self, columns: Mapping[str, encode_plain.Values], out: Features) -> bool:
        """Fill `out`; returns whether all that came in arrays of floats is finite, as all else is."""
        if len(out) == 1 and self._place_row(columns, out):
            return True
        floats: list[np.ndarray] = []
        firsts: list[int] = []
        for name, (column, j) in self._places.items():
            values = columns[name]
            array = encode_plain.floats(column, values) if isinstance(values, np.ndarray) else None
            if array is not None:
                floats.append(array)
                firsts.append(j)
            elif column.kind == "categorical":
                out.codes_NC[:, j] = encode_plain.codes(column, values)
            elif column.width == 1:
                out.numeric_NF[:, j] = encode_plain.numbers(column, values)
            else:
                out.numeric_NF[:, j : j + column.width] = encode_plain.vectors(column, values)
        return place(floats, firsts, out.numeric_NF)

    def _place_row(self, columns: Mapping[str, encode_plain.Values], out: Features) -> bool:
        """Place a lone row of lists: one assignment for all of its numbers costs what one does for a column.

        Returns False, and places nothing, where a column is no list.
        """
        numbers: list[float] = []
        codes: list[int] = []
        for name, column, low, high in self._bounded:
            values = columns[name]
            if type(values) is not list:
                return False
            if low is not None and type(values[0]) is float and low <= values[0] <= high:
                numbers.append(values[0])
            elif column.kind == "categorical":
                codes.extend(encode_plain.codes(column, values))
            elif column.width == 1:
                numbers.extend(encode_plain.numbers(column, values))
            else:
                numbers.extend(encode_plain.vectors(column, values)[0])
        if numbers:
            out.numeric_NF[0] = numbers
        if codes:
            out.codes_NC[0] = codes
        return True

    @cached_property
    def _bounded(self) -> list[tuple[str, FittedColumn, float | None, float]]:
        """Each column with the bounds of its floats; no lower one where a float is not taken as it is."""
        found: list[tuple[str, FittedColumn, float | None, float]] = []
        for column in self.columns:
            plain = column.kind == "numeric" and column.width == 1 and column.dtype.startswith("float")
            low, high = column.bounds if plain else (None, 0.0)
            found.append((column.name, column, low, high))
        return found


def _encode(column: FittedColumn, values: pa.ChunkedArray) -> np.ndarray:
    if column.kind == "categorical":
        return encode_arrow.codes(column, values)
    return (encode_arrow.numbers if column.width == 1 else encode_arrow.vectors)(column, values)


def _column_mismatch(given: Iterable[str], expected: Sequence[str]) -> str:
    names, known = set(given), set(expected)
    missing = [name for name in expected if name not in names]
    extra = [name for name in given if name not in known]
    parts = []
    if missing:
        parts.append(f"missing inputs: {some(missing)}")
    if extra:
        parts.append(f"unknown inputs: {some(extra)}.{nearest(extra[0], expected)}")
    return "; ".join(parts)
