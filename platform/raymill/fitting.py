"""What training rows teach an encoder: mergeable statistics, and the plan that fits from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from raymill.errors import DataError
from raymill.evaluation import Task
from raymill.features import Column, Encoder, FittedColumn, input_dtype, refuse_nulls, resolve_kind


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
        present = np.asarray(
            values.drop_null().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        )
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
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


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
        classes = self._check_target(statistics)
        return Encoder(columns=columns, target=self.target, task=self.task, classes=classes)

    def _dtype(self, name: str) -> str:
        return input_dtype(self.schema.field(name).type, name)

    def _kind(self, name: str) -> Literal["numeric", "categorical"]:
        return resolve_kind(self.features[name], self._dtype(name), name)

    def _fit_column(self, name: str, column: Column, statistics: ColumnStatistics) -> FittedColumn:
        kind, dtype = self._kind(name), self._dtype(name)
        if kind == "categorical":
            ranked = sorted(statistics.counts[name].items(), key=lambda item: (-item[1], str(item[0])))
            vocabulary = tuple(value for value, _ in ranked[: column.max_vocabulary])
            nulls = statistics.nulls[name]
            return FittedColumn(
                name=name, kind=kind, dtype=dtype, nulls=column.nulls, null_count=nulls, vocabulary=vocabulary
            )
        moments = statistics.moments[name]
        if moments.count and not np.isfinite([moments.mean, moments.squares]).all():
            raise DataError(
                f"column {name!r} holds NaN or infinite values in the training rows; turn them into "
                "nulls when preparing and declare a null policy"
            )
        std = (moments.squares / moments.count) ** 0.5 if moments.count else 0.0
        return FittedColumn(
            name=name, kind=kind, dtype=dtype, nulls=column.nulls, null_count=moments.nulls,
            mean=moments.mean, std=std if std > 0 else 1.0,
            minimum=moments.minimum if moments.count else None,
            maximum=moments.maximum if moments.count else None,
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
