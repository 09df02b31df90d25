"""What happens to a block of raw rows: pure functions on pandas frames and Arrow tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from raymill.columns import is_text
from raymill.errors import DataError, nearest
from raymill.prepare.spec import JoinSpec, PrepareSpec

SPLIT = "__split__"
NO_OUTCOME, NO_SPLIT = "__required_null__", "__outside__"
ERROR = "__error__:"

ARROW_TYPES: dict[str, pa.DataType] = {
    "bool": pa.bool_(), "int8": pa.int8(), "int16": pa.int16(), "int32": pa.int32(), "int64": pa.int64(),
    "float32": pa.float32(), "float64": pa.float64(), "string": pa.string(),
    "timestamp": pa.timestamp("us", "UTC"), "date": pa.date32(),
}  # fmt: skip


@dataclass(frozen=True)
class Joiner:
    """A join's table, reduced to keys and renamed columns."""

    spec: JoinSpec
    frame: pd.DataFrame

    @classmethod
    def of(cls, spec: JoinSpec, table: pa.Table) -> Joiner:
        """Check the table and keep what the join needs.

        Raises:
            DataError: a missing column, or keys that are not unique.
        """
        require_columns(table.schema.names, (*spec.keys, *spec.columns), spec.source.path)
        frame = table.select([*spec.keys, *spec.columns]).to_pandas()
        frame = frame.dropna(subset=list(spec.keys))  # pandas would match a null key with a null key
        if doubled := int(frame.duplicated(list(spec.keys)).sum()):
            example = frame[frame.duplicated(list(spec.keys))].iloc[0][list(spec.keys)].to_dict()
            raise DataError(
                f"join table {spec.source.path!r} has {doubled} rows whose key ({', '.join(spec.keys)}) "
                f"occurs before, such as {example}; a row would match twice: join on more columns"
            )
        return cls(spec, frame.rename(columns=spec.columns))

    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        require_columns(frame.columns, self.spec.keys, "the rows to join")
        return frame.merge(self.frame, on=list(self.spec.keys), how="left", validate="m:1")


def transform(table: pa.Table, spec: PrepareSpec, joiners: Sequence[Joiner]) -> pa.Table:
    """Return the block joined, derived, typed, with each row's split (or why it has none) in SPLIT.

    Raises:
        DataError: an expression that cannot be evaluated, a missing column, a value that does not fit
            its type, or a row that falls into two splits.
    """
    frame = table.to_pandas()
    for joiner in joiners:
        frame = joiner(frame)
    for name, expression in spec.derive.items():
        frame[name] = evaluate_expression(frame, name, expression)
    require_columns(frame.columns, (*spec.columns, *spec.require), "the prepared rows")
    splits = _splits(frame, spec)
    exact = _exact(table, frame, spec)
    arrays = [_typed(exact.get(name, frame[name]), name, kind) for name, kind in spec.columns.items()]
    return pa.table([*arrays, pa.array(splits, pa.string())], names=[*spec.columns, SPLIT])


def transform_or_explain(table: pa.Table, spec: PrepareSpec, joiners: Sequence[Joiner]) -> pa.Table:
    """Return what `transform` does, or, where it raises, one row whose SPLIT is ERROR and the message.

    Ray Data keeps no more of an exception than its text in a trace; as data the message arrives whole.
    """
    try:
        return transform(table, spec, joiners)
    except DataError as error:
        nulls = [pa.nulls(1, ARROW_TYPES[kind]) for kind in spec.columns.values()]
        return pa.table([*nulls, pa.array([f"{ERROR}{error}"])], names=[*spec.columns, SPLIT])


def evaluate_expression(frame: pd.DataFrame, name: str, expression: str) -> pd.Series:
    """Return `expression` over the frame's columns, a constant spread over all rows."""
    try:
        value = frame.eval(expression, engine="python")
    except Exception as error:  # pandas raises a dozen types here; all mean the expression is wrong
        raise DataError(
            f"{name!r}: expression {expression!r} cannot be evaluated: {error}; "
            f"columns: {', '.join(map(str, frame.columns))}"
        ) from error
    return value if isinstance(value, pd.Series) else pd.Series(value, index=frame.index)


def require_columns(have: Sequence[str] | pd.Index, wanted: Sequence[str], where: str) -> None:
    """Raise DataError for the first of `wanted` that is not among `have`."""
    names = [str(name) for name in have]
    for name in wanted:
        if name not in names:
            raise DataError(
                f"{where} has no column {name!r}; have: {', '.join(names)}.{nearest(name, names)}"
            )


def _splits(frame: pd.DataFrame, spec: PrepareSpec) -> pd.Series:
    splits = pd.Series(NO_SPLIT, index=frame.index, dtype=object)
    taken = pd.Series(False, index=frame.index)
    for name, condition in spec.split.items():
        mine = evaluate_expression(frame, f"split.{name}", condition).astype(bool)
        if bool((mine & taken).any()):
            row = frame[mine & taken].iloc[0].to_dict()
            raise DataError(
                f"split {name!r} ({condition}) overlaps an earlier split; "
                f"a row in both would leak: {row!s:.300}"
            )
        splits[mine] = name
        taken |= mine
    if spec.require:
        splits[frame[list(spec.require)].isna().any(axis=1)] = NO_OUTCOME
    return splits


def _exact(table: pa.Table, frame: pd.DataFrame, spec: PrepareSpec) -> dict[str, pa.ChunkedArray]:
    """Return the whole-number columns that pandas turned into floats for their nulls, as they were.

    Floats hold whole numbers up to 2**53 only; joins keep the order of rows, so the originals still fit.
    """
    names = [name for name in spec.columns if name in table.schema.names and name not in spec.derive]
    return {
        name: table.column(name)
        for name in names
        if pa.types.is_integer(table.schema.field(name).type) and pd.api.types.is_float_dtype(frame[name])
    }


def _typed(values: pd.Series | pa.ChunkedArray, name: str, kind: str) -> pa.Array | pa.ChunkedArray:
    target = ARROW_TYPES[kind]
    try:
        array = values if isinstance(values, pa.ChunkedArray) else pa.array(values, from_pandas=True)
        if is_text(array.type) and kind == "timestamp":
            return pa.array(pd.to_datetime(array.to_pandas(), utc=True), target)
        return array.cast(target, safe=not pa.types.is_floating(target))
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise DataError(
            f"column {name!r} cannot be stored as {kind}: {error}; choose another type, or derive it first"
        ) from error
