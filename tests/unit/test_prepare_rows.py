"""What preparing does to a block of rows: joins, derived columns, types, splits, and each way to be wrong."""

from __future__ import annotations

import datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from raymill.errors import DataError
from raymill.prepare.rows import NO_OUTCOME, NO_SPLIT, SPLIT, Joiner, transform
from raymill.prepare.spec import JoinSpec, PrepareSpec


def spec(**changes) -> PrepareSpec:
    return PrepareSpec.model_validate(
        {"source": {"path": "x"}, "output": "out", "columns": {"a": "int32"}} | changes
    )


def join_spec(**changes) -> JoinSpec:
    return JoinSpec.model_validate(
        {"source": {"path": "planes.csv"}, "keys": ["tail"], "columns": {"year": "plane_year"}} | changes
    )


FLIGHTS = pa.table(
    {
        "a": [1, 2, 3, 4],
        "tail": ["N1", "N2", None, "N1"],
        "delay": [20.0, 5.0, None, 16.0],
        "month": [1, 10, 11, 12],
    }
)
PLANES = pa.table({"tail": ["N1", "N9"], "year": [1999, 2005], "unused": [0, 0]})


def test_columns_come_in_the_spec_s_order_and_types():
    done = transform(FLIGHTS, spec(columns={"month": "int8", "a": "float64"}), [])
    assert done.schema.names == ["month", "a", SPLIT]
    assert done.schema.field("month").type == pa.int8()
    assert done.column("a").to_pylist() == [1.0, 2.0, 3.0, 4.0]
    assert done.column(SPLIT).to_pylist() == ["all"] * 4


def test_a_join_adds_columns_keeps_rows_and_order_and_leaves_null_where_nothing_matches():
    joiner = Joiner.of(join_spec(), PLANES)
    done = transform(FLIGHTS, spec(columns={"a": "int32", "plane_year": "int16"}), [joiner])
    assert done.column("a").to_pylist() == [1, 2, 3, 4]
    assert done.column("plane_year").to_pylist() == [1999, None, None, 1999]


def test_a_null_key_matches_nothing_even_where_the_table_holds_a_null_key():
    planes = pa.table({"tail": ["N1", None, None], "year": [1999, 1111, 2222]})
    done = transform(FLIGHTS, spec(columns={"plane_year": "int16"}), [Joiner.of(join_spec(), planes)])
    assert done.column("plane_year").to_pylist() == [1999, None, None, 1999]


def test_several_keys_join_together():
    table = pa.table({"tail": ["N1", "N1"], "month": [1, 12], "year": [7, 8]})
    joiner = Joiner.of(join_spec(keys=["tail", "month"]), table)
    done = transform(FLIGHTS, spec(columns={"plane_year": "int16"}), [joiner])
    assert done.column("plane_year").to_pylist() == [7, None, None, 8]


def test_keys_that_are_not_unique_are_refused_with_an_example():
    table = pa.table({"tail": ["N1", "N2", "N1"], "year": [1, 2, 3]})
    with pytest.raises(DataError) as caught:
        Joiner.of(join_spec(), table)
    assert str(caught.value) == (
        "join table 'planes.csv' has 1 rows whose key (tail) occurs before, such as {'tail': 'N1'}; "
        "a row would match twice: join on more columns"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"keys": ["tial"]},
            r"planes\.csv has no column 'tial'; have: tail, year, unused\. Did you mean 'tail'",
        ),
        ({"columns": {"yaer": "y"}}, r"planes\.csv has no column 'yaer'.*Did you mean 'year'"),
    ],
)
def test_a_join_table_without_the_column_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        Joiner.of(join_spec(**changes), PLANES)


def test_rows_without_the_join_key_are_refused():
    with pytest.raises(DataError, match=r"the rows to join has no column 'tail'"):
        transform(pa.table({"a": [1]}), spec(), [Joiner.of(join_spec(), PLANES)])


def test_derived_columns_see_earlier_ones_and_constants_spread():
    derive = {"double": "a * 2", "four": "double * 2", "one": "1", "late": "delay > 15"}
    columns = {"four": "int64", "one": "int8", "late": "bool"}
    done = transform(FLIGHTS, spec(derive=derive, columns=columns), [])
    assert done.column("four").to_pylist() == [4, 8, 12, 16]
    assert done.column("one").to_pylist() == [1, 1, 1, 1]
    assert done.column("late").to_pylist() == [True, False, False, True]


@pytest.mark.parametrize("expression", ["a +", "nope * 2", "a.nope()", "tail - 1", "@x"])
def test_a_wrong_expression_names_itself_and_the_columns(expression):
    with pytest.raises(DataError) as caught:
        transform(FLIGHTS, spec(derive={"b": expression}), [])
    message = str(caught.value)
    assert message.startswith(f"'b': expression {expression!r} cannot be evaluated: ")
    assert message.endswith("columns: a, tail, delay, month")


def test_an_unknown_column_names_the_nearest():
    with pytest.raises(DataError, match=r"prepared rows has no column 'mnth'; have: .*Did you mean 'month'"):
        transform(FLIGHTS, spec(columns={"mnth": "int8"}), [])
    with pytest.raises(DataError, match=r"no column 'dely'.*Did you mean 'delay'"):
        transform(FLIGHTS, spec(require=["dely"]), [])


SPLITS = {"train": "month <= 9", "test": "month >= 11"}


def test_splits_missing_outcomes_and_rows_in_no_split_are_told_apart():
    done = transform(FLIGHTS, spec(split=SPLITS, require=["delay"]), [])
    assert done.column(SPLIT).to_pylist() == ["train", NO_SPLIT, NO_OUTCOME, "test"]


def test_splits_that_overlap_are_refused_with_the_row():
    with pytest.raises(DataError) as caught:
        transform(FLIGHTS, spec(split={"train": "month <= 10", "validation": "month == 10"}), [])
    message = str(caught.value)
    assert message.startswith(
        "split 'validation' (month == 10) overlaps an earlier split; a row in both would leak"
    )
    assert "'month': 10" in message


@given(st.lists(st.one_of(st.none(), st.integers(0, 30)), min_size=1, max_size=30), st.integers(0, 30))
def test_each_row_goes_to_exactly_one_place(months, edge):
    table = pa.table({"a": pa.array(range(len(months)), pa.int64()), "m": pa.array(months, pa.int64())})
    splits = {"low": f"m < {edge}", "high": f"m >= {edge}"}
    done = transform(table, spec(split=splits), [])
    want = [NO_SPLIT if m is None else "low" if m < edge else "high" for m in months]
    assert done.column(SPLIT).to_pylist() == want
    assert done.column("a").to_pylist() == list(range(len(months)))


def test_a_condition_that_is_null_puts_a_row_in_no_split():
    table = pa.table({"a": [1, 2, 3], "flag": pa.array([True, None, False])})
    done = transform(table, spec(split={"train": "flag"}), [])
    assert done.column(SPLIT).to_pylist() == ["train", NO_SPLIT, NO_SPLIT]


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (pa.array([1, 300]), "int8", "column 'a' cannot be stored as int8: .*300"),
        (pa.array([-1]), "int16", None),
        (pa.array([1.5]), "int32", "column 'a' cannot be stored as int32"),
        (pa.array(["x"]), "float32", "column 'a' cannot be stored as float32"),
        (pa.array(["soon"]), "timestamp", "column 'a' cannot be stored as timestamp"),
    ],
)
def test_a_value_that_does_not_fit_its_type_is_refused(values, kind, message):
    if message is None:
        transform(pa.table({"a": values}), spec(columns={"a": kind}), [])
        return
    with pytest.raises(DataError, match=message + r"(.|\n)*choose another type, or derive it first"):
        transform(pa.table({"a": values}), spec(columns={"a": kind}), [])


@pytest.mark.parametrize(
    ("values", "kind", "want"),
    [
        (pa.array([1, None]), "int16", [1, None]),
        (pa.array([1.0, None]), "int16", [1, None]),
        (pa.array([True, None]), "bool", [True, None]),
        (pa.array(["a", None]), "string", ["a", None]),
        (pa.array(["a", None]).dictionary_encode(), "string", ["a", None]),
        (pa.array([1.1, None]), "float32", [pytest.approx(1.1), None]),
        (pa.array(["1.5", None]), "float64", [1.5, None]),
        (pa.array([datetime.date(2013, 1, 2)]), "date", [datetime.date(2013, 1, 2)]),
    ],
)
def test_types_and_nulls_are_kept(values, kind, want):
    done = transform(pa.table({"a": values}), spec(columns={"a": kind}), [])
    assert done.column("a").to_pylist() == want


MOMENT = datetime.datetime(2013, 1, 1, 10, 0, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["2013-01-01T10:00:00Z", None]),
        pa.array(["2013-01-01 10:00:00", None]),
        pa.array(["2013-01-01 05:00:00-05:00", None]),
        pa.array([MOMENT, None], pa.timestamp("s", "America/New_York")),
        pa.array([MOMENT.replace(tzinfo=None), None], pa.timestamp("ms")),
    ],
    ids=["iso", "no zone is UTC", "offset", "zoned", "naive is UTC"],
)
def test_times_are_stored_in_utc(values):
    done = transform(pa.table({"a": values}), spec(columns={"a": "timestamp"}), [])
    assert done.column("a").to_pylist() == [MOMENT, None]


def test_large_whole_numbers_are_kept_exactly_beside_nulls():
    """As float64, which holds nulls, 2**53 + 1 would be another number."""
    table = pa.table({"a": pa.array([2**53 + 1, None], pa.int64())})
    done = transform(table, spec(columns={"a": "int64"}), [])
    assert done.column("a").to_pylist() == [2**53 + 1, None]


def test_a_block_without_rows_keeps_its_schema():
    derive, columns = {"late": "delay > 15"}, {"a": "int32", "late": "bool"}
    done = transform(FLIGHTS.slice(0, 0), spec(derive=derive, columns=columns, split=SPLITS), [])
    assert done.num_rows == 0
    assert done.schema.field("a").type == pa.int32()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": {}}, "at least one column must be kept"),
        ({"split": {}}, "split names become directories"),
        ({"split": {"../x": "True"}}, "split names become directories"),
        ({"split": {"_x": "True"}}, "split names become directories"),
        ({"columns": {"a": "int33"}}, "columns.a"),
        ({"row_group_rows": 0}, "row_group_rows"),
    ],
)
def test_specs_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        spec(**changes)
