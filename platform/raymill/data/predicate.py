"""Predicates: rows a run may see, decided by partitions and row-group statistics before any row is read.

`where` returns a snapshot whose row groups count matching rows only, so that every read order works
on it unchanged, with exact row counts. Only row groups that statistics cannot decide are scanned,
and of those only the predicate's columns. As in SQL, a null matches nothing but `is null`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymill.data.snapshot import Snapshot
from raymill.encode_arrow import without_views
from raymill.errors import DataError, SpecError, nearest
from raymill.progress import Progress

COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt,
    ">=": operator.ge,
}  # fmt: skip
KERNELS = {
    "==": pc.equal, "!=": pc.not_equal, "<": pc.less, "<=": pc.less_equal, ">": pc.greater,
    ">=": pc.greater_equal,
}  # fmt: skip
OPERATORS = (*COMPARE, "in", "not in", "is null", "is not null")
PLAN_THREADS = 8

# N = rows, g = row groups of one file


@dataclass(frozen=True)
class Condition:
    """`column operator value`; the value has the column's type."""

    column: str
    operator: str
    value: Any = None

    def mask(self, values: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
        """Return for each value whether it matches; never null."""
        if self.operator in ("is null", "is not null"):
            found = pc.is_null(values)
            return found if self.operator == "is null" else pc.invert(found)
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if self.operator in ("in", "not in"):
            found = pc.is_in(values, value_set=pa.array(self.value, values.type))
            if self.operator == "not in":
                found = pc.and_(pc.invert(found), pc.is_valid(values))
            return found
        found = KERNELS[self.operator](values, pa.scalar(self.value, values.type))
        return pc.fill_null(found, False)

    def decide(self, statistics: pq.Statistics | None, rows: int) -> bool | None:
        """Return True if all rows of a row group match, False if none, None where rows must be read.

        Bounds may be wider than the values (writers truncate long text), and NaN lies outside them.
        """
        if statistics is None:
            return None
        nulls = statistics.null_count if statistics.has_null_count else None
        if self.operator in ("is null", "is not null"):
            if nulls is None or 0 < nulls < rows:
                return None
            return bool(nulls == rows) == (self.operator == "is null")
        if nulls == rows:
            return False
        if not statistics.has_min_max:
            return None
        low, high = statistics.min, statistics.max
        try:
            verdict = self._decide_bounds(low, high)
        except TypeError:  # such as a time without a zone in the statistics of a column with one
            return None
        if isinstance(low, float) and (verdict or self.operator in ("!=", "not in")):
            return None  # a NaN would decide otherwise
        return None if verdict and nulls != 0 else verdict

    def _decide_bounds(self, low: Any, high: Any) -> bool | None:
        if self.operator in ("in", "not in"):
            possible = [value for value in self.value if low <= value <= high]
            inside = False if not possible else True if low == high else None
            return inside if self.operator == "in" or inside is None else not inside
        if self.operator in ("==", "!="):
            equal: bool | None = False if not low <= self.value <= high else True if low == high else None
            return equal if self.operator == "==" or equal is None else not equal
        compare = COMPARE[self.operator]
        at_ends = compare(low, self.value), compare(high, self.value)
        return bool(at_ends[0]) if at_ends[0] == at_ends[1] else None


@dataclass(frozen=True)
class Predicate:
    """Conditions that must all hold."""

    conditions: tuple[Condition, ...]

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(condition.column for condition in self.conditions))

    def mask_N(self, table: pa.Table) -> np.ndarray:
        """Return bool [N]: whether each row matches."""
        masks = [condition.mask(table.column(condition.column)) for condition in self.conditions]
        return np.asarray(reduce(pc.and_, masks).to_numpy())


def parse_predicate(conditions: Sequence[Sequence[Any]], schema: pa.Schema) -> Predicate:
    """Return the predicate of `[column, operator, value]` conditions, values cast to the columns' types.

    Raises:
        SpecError: an unknown column or operator, or a value that is none of the column's type.
    """
    if not conditions:
        raise SpecError("a predicate needs at least one condition: [[column, operator, value], ...]")
    return Predicate(tuple(_parse_condition(list(given), schema) for given in conditions))


def _parse_condition(given: list[Any], schema: pa.Schema) -> Condition:
    takes_value = len(given) > 1 and given[1] not in ("is null", "is not null")
    if len(given) != (3 if takes_value else 2):
        raise SpecError(f"a condition is [column, operator, value], got {given!r}")
    column, name = str(given[0]), given[1]
    if column not in schema.names:
        raise SpecError(
            f"predicate column {column!r} is not in the data; have: {', '.join(schema.names)}."
            f"{nearest(column, schema.names)}"
        )
    if name not in OPERATORS:
        raise SpecError(f"operator {name!r} is unknown; have: {', '.join(OPERATORS)}")
    if not takes_value:
        return Condition(column, name)
    if isinstance(given[2], list | tuple) != (name in ("in", "not in")):
        raise SpecError(f"operator {name!r} on {column!r} takes {_takes(name)}, got {given[2]!r}")
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if name in ("in", "not in"):
        return Condition(column, name, tuple(_typed(value, kind, column) for value in given[2]))
    return Condition(column, name, _typed(given[2], kind, column))


def _takes(name: str) -> str:
    return "a list" if name in ("in", "not in") else "one value"


def _typed(value: Any, kind: pa.DataType, column: str) -> Any:
    try:
        return pa.scalar(value).cast(kind).as_py()
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise SpecError(
            f"predicate on {column!r}: {value!r} is no {kind} ({error}); write it in the column's type"
        ) from error


def where(snapshot: Snapshot, predicate: Predicate, *, threads: int = PLAN_THREADS) -> Snapshot:
    """Return the snapshot of the rows that match, every row group with its exact count.

    Raises:
        DataError: a file that cannot be read, or no row at all matches.
    """
    edges = np.searchsorted(snapshot.group_file_G, np.arange(len(snapshot.files) + 1))
    progress = Progress("predicate", len(snapshot.files), "files")
    counts = []
    with ThreadPoolExecutor(threads, thread_name_prefix="predicate") as pool:
        for count_g in pool.map(
            lambda number: _count(snapshot, predicate, number, int(edges[number]), int(edges[number + 1])),
            range(len(snapshot.files)),
        ):
            counts.append(count_g)
            progress.advance(1)
    progress.close()
    matching_G = np.concatenate(counts)
    if matching_G.sum() == 0:
        text = " and ".join(f"{c.column} {c.operator} {c.value!r}" for c in predicate.conditions)
        raise DataError(f"no row of {snapshot.root.uri!r} matches {text}; check the values and their types")
    return replace(
        snapshot, predicate=predicate, group_rows_G=matching_G, group_stored_G=snapshot.group_rows_G
    )


def _count(snapshot: Snapshot, predicate: Predicate, number: int, low: int, high: int) -> np.ndarray:
    """Return int64 [g]: matching rows of each row group [low, high) of file `number`."""
    rows_g = snapshot.group_rows_G[low:high]
    values = {name: values_M[number : number + 1] for name, values_M in snapshot.partitions.items()}
    folders = [condition for condition in predicate.conditions if condition.column in values]
    if not all(condition.mask(values[condition.column])[0].as_py() for condition in folders):
        return np.zeros_like(rows_g)
    rest = Predicate(tuple(c for c in predicate.conditions if c.column not in values))
    if not rest.conditions:
        return rows_g
    location = snapshot.file_location(number)
    try:
        with location.open_input() as source, pq.ParquetFile(source) as file:
            counts = [
                count_matching(file, int(snapshot.group_ordinal_G[group]), rest) for group in range(low, high)
            ]
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"file {location.uri!r} cannot be read: {error}; restore it or take the snapshot again"
        ) from error
    return np.array(counts, np.int64)


def count_matching(file: pq.ParquetFile, ordinal: int, predicate: Predicate) -> int:
    """Return how many rows of a row group match, by its statistics if they suffice, else by its values."""
    group = file.metadata.row_group(ordinal)
    chunks = {group.column(i).path_in_schema: group.column(i).statistics for i in range(group.num_columns)}
    verdicts = [c.decide(chunks.get(c.column), group.num_rows) for c in predicate.conditions]
    if False in verdicts or group.num_rows == 0:
        return 0
    if None not in verdicts:
        return int(group.num_rows)
    open_ones = Predicate(
        tuple(c for c, verdict in zip(predicate.conditions, verdicts, strict=True) if verdict is None)
    )
    table = file.read_row_group(ordinal, columns=open_ones.columns, use_threads=False)
    return int(open_ones.mask_N(without_views(table)).sum())
