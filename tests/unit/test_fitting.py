"""Statistics that merge to those of the whole, and the encoder they fit."""

from __future__ import annotations

import functools
import itertools
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.errors import DataError
from raymill.features import Column
from raymill.fitting import ColumnStatistics, FeaturePlan, Moments

floats = st.one_of(st.none(), st.floats(-1e6, 1e6, width=32))
words = st.one_of(st.none(), st.sampled_from(["a", "b", "ü", ""]))
rows = st.lists(st.tuples(floats, words, st.booleans()), min_size=1, max_size=40)


def table(rows) -> pa.Table:
    x, w, y = zip(*rows, strict=True)
    schema = {"x": pa.float64(), "w": pa.string(), "y": pa.bool_()}
    return pa.table({"x": x, "w": w, "y": y}, schema=pa.schema(schema))


def plan(task="binary", **features) -> FeaturePlan:
    columns = features or {"x": Column(nulls="mean"), "w": Column(nulls="unknown")}
    return FeaturePlan(columns, "y", task, table([(1.0, "a", True)]).schema)


def same(a: ColumnStatistics, b: ColumnStatistics) -> None:
    assert (a.rows, a.nulls, a.counts) == (b.rows, b.nulls, b.counts)
    for name, left in a.moments.items():
        right = b.moments[name]
        assert (left.count, left.nulls, left.minimum, left.maximum) == (
            right.count, right.nulls, right.minimum, right.maximum,
        )  # fmt: skip
        assert left.mean == pytest.approx(right.mean, rel=1e-9, abs=1e-6)
        assert left.squares == pytest.approx(right.squares, rel=1e-6, abs=1e-3)


@given(rows, st.lists(st.integers(0, 40), max_size=4))
def test_statistics_of_parts_merge_to_those_of_the_whole(rows, cuts):
    whole = table(rows)
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    parts = [whole.slice(low, high - low) for low, high in itertools.pairwise(edges)]
    merged = functools.reduce(ColumnStatistics.merge, [plan().statistics(part) for part in parts])
    same(merged, plan().statistics(whole))


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40))
def test_moments_are_numpy_s(values):
    found = Moments.of(pa.array(values, pa.float32()))
    assert found.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)
    assert found.squares / found.count == pytest.approx(np.var(values), rel=1e-6, abs=1e-3)
    assert (found.minimum, found.maximum) == (min(values), max(values))


def test_far_from_zero_a_small_spread_is_kept():
    """The sum of squares would lose it: 1e9 squared has no room for 0.25."""
    values = [1e9, 1e9 + 1]
    parts = [Moments.of(pa.array([value])) for value in values * 50]
    merged = functools.reduce(Moments.merge, parts)
    assert merged.squares / merged.count == pytest.approx(0.25)


def test_merging_changes_neither_part():
    first, second = (plan().statistics(table([(1.0, word, True)])) for word in "ab")
    first.merge(second)
    assert first.counts == {"w": {"a": 1}, "y": {True: 1}}
    assert (first.rows, second.rows) == (1, 1)


def test_the_encoder_holds_what_the_rows_taught():
    rows = [(1.0, "b", True), (3.0, "b", False), (None, "a", True), (5.0, None, False)]
    encoder = plan().fit(plan().statistics(table(rows)))
    x, w = encoder.columns
    assert (x.kind, x.mean, x.std, x.minimum, x.maximum, x.null_count) == (
        "numeric", 3.0, pytest.approx(np.std([1, 3, 5])), 1.0, 5.0, 1,
    )  # fmt: skip
    assert (w.kind, w.vocabulary, w.null_count) == ("categorical", ("b", "a"), 1)
    assert (encoder.target, encoder.task, encoder.classes) == ("y", "binary", ())


def test_equally_frequent_categories_have_one_order_whoever_counted_them():
    orders = []
    for words in ("cab", "abc", "bca"):
        rows = [(0.0, word, index > 0) for index, word in enumerate(words)]
        orders.append(plan().fit(plan().statistics(table(rows))).columns[1].vocabulary)
    assert orders == [("a", "b", "c")] * 3


def test_rare_categories_beyond_the_limit_become_unknown():
    rows = [(0.0, word, index % 2) for index, word in enumerate("aaabbc")]
    limited = plan(w=Column(max_vocabulary=2))
    encoder = limited.fit(limited.statistics(table([(x, w, bool(y)) for x, w, y in rows])))
    assert encoder.columns[0].vocabulary == ("a", "b")
    assert encoder.encode_columns({"w": ["c", "a"]}).codes_NC.tolist() == [[0], [1]]


def test_a_constant_and_an_all_null_column_do_not_divide_by_zero():
    encoder = plan().fit(plan().statistics(table([(2.0, "a", True), (2.0, "a", False)])))
    assert (encoder.columns[0].mean, encoder.columns[0].std) == (2.0, 1.0)
    encoder = plan().fit(plan().statistics(table([(None, "a", True), (None, "a", False)])))
    column = encoder.columns[0]
    assert (column.mean, column.std, column.minimum) == (0.0, 1.0, None)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(bad):
    with pytest.raises(DataError, match="column 'x' holds NaN or infinite values"):
        plan().fit(plan().statistics(table([(bad, "a", True), (1.0, "a", False)])))


def test_nulls_without_a_policy_are_refused():
    strict = plan(x=Column(), w=Column())
    with pytest.raises(DataError, match=r"column 'x' holds 1 nulls.*`nulls: mean or a number`"):
        strict.fit(strict.statistics(table([(None, "a", True), (1.0, "a", False)])))
    with pytest.raises(DataError, match=r"column 'w' holds 2 nulls.*`nulls: unknown`"):
        strict.fit(strict.statistics(table([(1.0, None, True), (1.0, None, False)])))


def fit_target(values: pa.Array, task: str):
    data = pa.table({"x": pa.array([1.0] * len(values), pa.float64()), "y": values})
    made = FeaturePlan({"x": Column()}, "y", task, data.schema)
    return made.fit(made.statistics(data))


def test_classes_are_sorted_and_typed():
    assert fit_target(pa.array(["b", "a", "c"]), "multiclass").classes == ("a", "b", "c")
    assert fit_target(pa.array([10, 9, 2]), "multiclass").classes == (2, 9, 10)
    assert fit_target(pa.array(["b", "a"]).dictionary_encode(), "multiclass").classes == ("a", "b")
    assert fit_target(pa.array([1.5, 2.5]), "regression").classes == ()
    assert fit_target(pa.array([0, 1]), "binary").classes == ()


@pytest.mark.parametrize(
    ("values", "task", "message"),
    [
        (pa.array([True, True]), "binary", "one class only, True, in 2 rows"),
        (pa.array(["a", "a"]), "multiclass", "one class only, 'a'"),
        (pa.array([1, 2]), "binary", "must be boolean or 0/1"),
        (pa.array([True, None, False]), "binary", "has 1 nulls"),
        (pa.array([1.0, None]), "regression", "has 1 nulls"),
        (pa.array([], pa.bool_()), "binary", "has no rows"),
    ],
)
def test_a_target_that_cannot_be_learned_is_refused(values, task, message):
    with pytest.raises(DataError, match=message):
        fit_target(values, task)


def test_decimals_and_booleans_are_numbers():
    data = pa.table({"x": pa.array([Decimal("1.50"), Decimal("2.50")]), "b": [True, False], "y": [0, 1]})
    made = FeaturePlan({"x": Column(), "b": Column()}, "y", "binary", data.schema)
    encoder = made.fit(made.statistics(data))
    assert [(column.kind, column.mean) for column in encoder.columns] == [("numeric", 2.0), ("numeric", 0.5)]
