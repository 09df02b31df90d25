"""What training rows teach an encoder: mergeable statistics, and the plan that fits from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from raymill.columns import (
    Column,
    FittedColumn,
    input_dtype,
    input_width,
    is_time,
    kind_of,
    refuse_nulls,
)
from raymill.encode_arrow import microseconds
from raymill.errors import DataError
from raymill.evaluation import Task
from raymill.features import Encoder


@dataclass
class Moments:
    """Count, mean and sum of squared deviations; merged by Chan, Golub and LeVeque (1983)."""

    count: int = 0
    nulls: int = 0
    mean: float = 0.0
    squares: float = 0.0
    minimum: float = float("inf")
    maximum: float = float("-inf")

    @classmethod
    def of(cls, values: pa.Array | pa.ChunkedArray) -> Moments:
        nulls = values.null_count
        present = np.asarray(values.drop_null().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
        if len(present) == 0:
            return cls(nulls=nulls)
        mean = float(present.mean())
        squares = float(((present - mean) ** 2).sum())
        return cls(len(present), nulls, mean, squares, float(present.min()), float(present.max()))

    def merge(self, other: Moments) -> Moments:
        count = self.count + other.count
        if count == 0:
            return Moments(nulls=self.nulls + other.nulls)
        delta = other.mean - self.mean
        return Moments(
            count,
            self.nulls + other.nulls,
            self.mean + delta * other.count / count,
            self.squares + other.squares + delta * delta * self.count * other.count / count,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
        )

    def seconds_since(self, origin_us: int) -> Moments:
        """Return the moments of the same microseconds as seconds since `origin_us`."""
        return Moments(
            self.count,
            self.nulls,
            (self.mean - origin_us) * 1e-6 if self.count else 0.0,
            self.squares * 1e-12,
            (self.minimum - origin_us) * 1e-6,
            (self.maximum - origin_us) * 1e-6,
        )


@dataclass
class ColumnStatistics:
    """Mergeable statistics of the columns an encoder needs; built per row group, merged in order."""

    moments: dict[str, Moments]
    counts: dict[str, dict[Any, int]]
    nulls: dict[str, int]
    rows: int = 0

    @classmethod
    def of(cls, table: pa.Table, numeric: Iterable[str], categorical: Iterable[str]) -> ColumnStatistics:
        moments = {name: Moments.of(_plain(table.column(name))) for name in numeric}
        counts: dict[str, dict[Any, int]] = {}
        for name in categorical:
            found = _plain(table.column(name)).value_counts()
            counts[name] = dict(
                zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)
            )
        nulls = {name: counts[name].pop(None, 0) for name in counts}
        return cls(moments, counts, nulls, table.num_rows)

    def merge(self, other: ColumnStatistics) -> ColumnStatistics:
        counts = {name: dict(self.counts[name]) for name in self.counts}
        for name, extra in other.counts.items():
            for value, count in extra.items():
                counts[name][value] = counts[name].get(value, 0) + count
        return ColumnStatistics(
            {name: self.moments[name].merge(other.moments[name]) for name in self.moments},
            counts,
            {name: self.nulls[name] + other.nulls[name] for name in self.nulls},
            self.rows + other.rows,
        )


def _plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return values that statistics understand: a dictionary's values, microseconds, a vector's elements."""
    if pa.types.is_dictionary(values.type):
        return values.cast(values.type.value_type)
    if is_time(values.type):
        return microseconds(values)
    if pa.types.is_fixed_size_list(values.type):  # a null vector counts as one null for each element
        missing = pa.nulls(values.null_count * values.type.list_size, values.type.value_type)
        return pa.chunked_array([*(chunk.flatten() for chunk in values.chunks), missing])
    return values


@dataclass(frozen=True)
class FeaturePlan:
    """Which columns to read and how, from the spec and the schema; fits an `Encoder`."""

    features: Mapping[str, Column]
    target: str
    task: Task
    schema: pa.Schema

    @property
    def names(self) -> list[str]:
        return [*self.features, self.target]

    def statistics(self, table: pa.Table) -> ColumnStatistics:
        """Return the statistics of one part of the training rows."""
        numeric = [name for name in self.features if self._kind(name) == "numeric"]
        categorical = [name for name in self.features if name not in numeric]
        target_as_class = self.task != "regression"
        (categorical if target_as_class else numeric).append(self.target)
        return ColumnStatistics.of(table, numeric, categorical)

    def fit(self, statistics: ColumnStatistics) -> Encoder:
        """Return the encoder learned from the statistics of all training rows.

        Raises:
            DataError: no rows, a target that cannot be learned, or nulls against a policy.
        """
        if statistics.rows == 0:
            raise DataError("the training data has no rows; check the path and the order's filters")
        columns = tuple(self._fit_column(name, column, statistics) for name, column in self.features.items())
        for column in columns:
            refuse_nulls(column, column.null_count)
            if column.kind == "categorical" and not column.vocabulary:
                raise DataError(
                    f"column {column.name!r} has no vocabulary: it is null in all {statistics.rows} training "
                    "rows; leave it out of `features`, or train on rows that have it"
                )
        classes = self._check_target(statistics)
        return Encoder(columns=columns, target=self.target, task=self.task, classes=classes)

    def _dtype(self, name: str) -> str:
        return input_dtype(self.schema.field(name).type, name)

    def _kind(self, name: str) -> Literal["numeric", "categorical"]:
        return kind_of(self.features[name], self.schema.field(name).type, name)

    def _fit_column(self, name: str, column: Column, statistics: ColumnStatistics) -> FittedColumn:
        if self._kind(name) == "categorical":
            return self._fit_categorical(name, column, statistics)
        moments = statistics.moments[name]
        if moments.count and not np.isfinite([moments.mean, moments.squares]).all():
            raise DataError(
                f"column {name!r} holds NaN or infinite values in the training rows; turn them into "
                "nulls when preparing and declare a null policy"
            )
        arrow_type = self.schema.field(name).type
        origin_us = None
        if is_time(arrow_type):
            origin_us = int(moments.minimum) if moments.count else 0
            moments = moments.seconds_since(origin_us)
        std = (moments.squares / moments.count) ** 0.5 if moments.count else 0.0
        return FittedColumn(
            name=name, kind="numeric", dtype=self._dtype(name), width=input_width(arrow_type),
            origin_us=origin_us, nulls=column.nulls, null_count=moments.nulls,
            mean=moments.mean, std=std if std > 0 else 1.0,
            minimum=moments.minimum if moments.count else None,
            maximum=moments.maximum if moments.count else None,
        )  # fmt: skip

    def _fit_categorical(self, name: str, column: Column, statistics: ColumnStatistics) -> FittedColumn:
        ranked = sorted(statistics.counts[name].items(), key=lambda item: (-item[1], str(item[0])))
        return FittedColumn(
            name=name, kind="categorical", dtype=self._dtype(name), nulls=column.nulls,
            null_count=statistics.nulls[name],
            vocabulary=tuple(value for value, _ in ranked[: column.max_vocabulary]),
        )  # fmt: skip

    def _check_target(self, statistics: ColumnStatistics) -> tuple[str | int, ...]:
        if self.task == "regression":
            missing = statistics.moments[self.target].nulls
        else:
            missing = statistics.nulls[self.target]
        if missing:
            raise DataError(f"target {self.target!r} has {missing} nulls; drop rows without an outcome first")
        if self.task == "regression":
            return ()
        values = statistics.counts[self.target]
        if len(values) < 2:
            raise DataError(
                f"target {self.target!r} has one class only, {next(iter(values), None)!r}, in "
                f"{statistics.rows} rows; a classifier needs two, check the split or the derivation"
            )
        if self.task == "multiclass":
            return tuple(sorted(values, key=lambda value: (str(type(value)), value)))
        if not set(values) <= {0, 1}:
            raise DataError(
                f"target {self.target!r} must be boolean or 0/1 for task binary, got "
                f"{sorted(map(str, values))[:5]}; use task multiclass, or derive a boolean"
            )
        return ()
