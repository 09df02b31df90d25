"""Predicates: exact counts, the same rows as a scan, and statistics that spare the reading."""

from __future__ import annotations

import datetime
import itertools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.data import Loader, LoaderConfig, parse_predicate, take_snapshot, where
from raymill.data.predicate import count_matching
from raymill.errors import DataError, SpecError
from raymill.features import Encoder, FittedColumn

ROWS = 200


def data():
    rng = np.random.default_rng(0)
    ids = np.arange(ROWS)
    x = np.where(rng.random(ROWS) < 0.1, np.nan, ids // 10 + rng.random(ROWS))
    return pa.table(
        {
            "row": ids,
            "x": pa.array(x, pa.float64(), mask=rng.random(ROWS) < 0.1),
            "n": pa.array(ids // 25, pa.int32(), mask=(ids % 40 == 7) | (ids > 180)),
            "g": pa.array(np.array(["ant", "bee", "cat", "dog"])[ids // 50]).dictionary_encode(),
            "t": pa.array(ids.astype("datetime64[D]")),
        }
    )


@pytest.fixture(scope="module", name="lake")
def lake_fixture(tmp_path_factory):
    root = tmp_path_factory.mktemp("predicate")
    full = data()
    for part in range(2):
        folder = root / f"half={part}"
        folder.mkdir()
        pq.write_table(full.slice(part * 100, 100), folder / "a.parquet", row_group_size=20)
    columns = (FittedColumn(name="half", kind="numeric", dtype="int64", nulls="error", null_count=0),)
    return take_snapshot(root), Encoder(columns=columns, target="row", task="regression"), full


def condition(draw):
    column = draw(st.sampled_from(["x", "n", "g", "half"]))
    values = {"x": st.floats(-1, 21), "n": st.integers(-1, 9), "g": st.sampled_from(["ant", "bee", "zoo"]),
              "half": st.integers(0, 2)}[column]  # fmt: skip
    operator = draw(
        st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "in", "not in", "is null", "is not null"])
    )
    if operator.startswith("is"):
        return [column, operator]
    return [
        column,
        operator,
        draw(st.lists(values, min_size=1, max_size=3)) if "in" in operator else draw(values),
    ]


def expected_rows(full, conditions):
    table = full.append_column("half", pa.array(np.arange(ROWS) // 100))
    keep = np.ones(ROWS, bool)
    for column, operator, *value in conditions:
        values = table.column(column).to_pylist()
        checks = {
            "==": lambda v, w: v == w, "!=": lambda v, w: v != w, "<": lambda v, w: v < w,
            "<=": lambda v, w: v <= w, ">": lambda v, w: v > w, ">=": lambda v, w: v >= w,
            "in": lambda v, w: v in w, "not in": lambda v, w: v not in w,
        }  # fmt: skip
        if operator.startswith("is"):
            keep &= [(v is None) == (operator == "is null") for v in values]
        else:
            keep &= [v is not None and checks[operator](v, value[0]) for v in values]
    return np.flatnonzero(keep).tolist()


@settings(max_examples=150, deadline=None)
@given(drawn=st.data())
def test_counts_and_rows_are_those_of_a_scan(lake, row_ids, drawn):
    snapshot, encoder, full = lake
    conditions = [condition(drawn.draw) for _ in range(drawn.draw(st.integers(1, 3)))]
    expected = expected_rows(full, conditions)
    predicate = parse_predicate(conditions, snapshot.schema)
    if not expected:
        with pytest.raises(DataError, match="no row of"):
            where(snapshot, predicate)
        return
    seen = where(snapshot, predicate)
    assert seen.rows == len(expected)
    assert seen.id != snapshot.id
    batches = row_ids(Loader(seen, encoder, LoaderConfig(batch_rows=12, lanes=3, window=2)))
    assert sorted(itertools.chain(*batches)) == expected


def test_samples_of_rows_are_drawn_among_the_matching(lake, row_ids):
    snapshot, encoder, full = lake
    conditions = [["n", ">=", 2]]
    seen = where(snapshot, parse_predicate(conditions, snapshot.schema))
    config = LoaderConfig(order="sampled", options={"fraction": 0.25, "unit": "rows"}, batch_rows=16)
    loader = Loader(seen, encoder, config)
    drawn = [sorted(itertools.chain(*row_ids(loader, epoch))) for epoch in range(4)]
    assert sorted(itertools.chain(*drawn)) == expected_rows(full, conditions)
    assert all(drawn)


def test_statistics_spare_the_reading(lake):
    snapshot, _, _ = lake
    location = snapshot.file_location(0)

    class Footer:
        """A file whose values cannot be read."""

        metadata = pq.read_metadata(location.path)

    def count(conditions, ordinal):
        return count_matching(Footer(), ordinal, parse_predicate(conditions, snapshot.schema))

    assert [count([["row", "<", 40]], ordinal) for ordinal in range(5)] == [20, 20, 0, 0, 0]
    assert count([["row", "in", [100, 200]]], 0) == 0
    assert count([["t", "<", "1970-01-21"]], 0) == 20
    assert count([["t", ">", datetime.date(1980, 1, 1)]], 0) == 0
    assert count([["x", ">", 1000], ["row", "<", 10]], 0) == 0
    with pytest.raises(AttributeError, match="read_row_group"):
        count([["row", "<", 10]], 0)
    with pytest.raises(AttributeError, match="read_row_group"):  # x has NaN, which statistics do not show
        count([["x", "<", 1000]], 0)


def test_times_compare_as_written(lake, row_ids):
    snapshot, encoder, _ = lake
    seen = where(
        snapshot, parse_predicate([["t", ">=", "1970-04-11"], ["t", "<", "1970-05-01"]], snapshot.schema)
    )
    assert sorted(itertools.chain(*row_ids(Loader(seen, encoder, LoaderConfig())))) == list(range(100, 120))


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ([], "at least one condition"),
        ([["nn", "==", 1]], "'nn' is not in the data.*Did you mean 'n'"),
        ([["n", "=", 1]], "operator '=' is unknown; have: =="),
        ([["n", "==", "many"]], "'many' is no int32"),
        ([["n", "in", 3]], "takes a list, got 3"),
        ([["n", "==", [3]]], "takes one value"),
        ([["n", "is null", 3]], r"is \[column, operator, value\]"),
        ([["n", "=="]], r"is \[column, operator, value\]"),
    ],
)
def test_predicates_that_cannot_work_are_refused(lake, conditions, message):
    with pytest.raises(SpecError, match=message):
        parse_predicate(conditions, lake[0].schema)


def test_a_file_that_changed_its_matching_rows_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"row": np.arange(10), "n": np.arange(10)}), path)
    snapshot = take_snapshot(tmp_path)
    seen = where(snapshot, parse_predicate([["n", "<", 5]], snapshot.schema))
    import dataclasses

    wrong = dataclasses.replace(seen, group_rows_G=np.array([4]))
    encoder = Encoder(
        columns=(FittedColumn(name="n", kind="numeric", dtype="int64", nulls="error", null_count=0),),
        target="row", task="regression",
    )  # fmt: skip
    with pytest.raises(DataError, match=r"a\.parquet' has 5 matching rows in row group 0, the snapshot 4"):
        list(Loader(wrong, encoder, LoaderConfig()).epoch(0))
    assert pc.sum(pa.array(seen.group_rows_G)).as_py() == 5
