"""Column kinds from file to batch: what each becomes, what nulls become, what is refused."""

from __future__ import annotations

import datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.data import Loader, LoaderConfig, learn_encoder, take_snapshot
from raymill.errors import DataError, InvalidInput
from raymill.features import Column, Encoder, check_schema
from raymill.fitting import FeaturePlan

DAY_S = 86_400
TIMES = [datetime.datetime(2024, 1, 1) + datetime.timedelta(hours=36 * i) for i in range(6)]


def fit(table: pa.Table, **columns: Column) -> Encoder:
    table = table.append_column("y", pa.array(np.arange(table.num_rows) * 1.0))
    plan = FeaturePlan(columns, "y", "regression", table.schema)
    return plan.fit(plan.statistics(table))


def encode(table: pa.Table, **columns: Column) -> np.ndarray:
    return fit(table, **columns).encode_table(table).numeric_NF


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([True, False, True]), [1, 0, 1]),
        (pa.array([1, -2, 300], pa.int16()), [1, -2, 300]),
        (pa.array([1, 2, 2**40], pa.uint64()), [1, 2, 2.0**40]),
        (pa.array([0.5, 1.5, -2.0], pa.float16()), [0.5, 1.5, -2]),
        (pa.array([Decimal("1.25"), Decimal("-3.5"), Decimal("0")]), [1.25, -3.5, 0]),
        (pa.array([1.5, 2.5, 1.5]).dictionary_encode(), [1.5, 2.5, 1.5]),
    ],
)
def test_scalars(values, expected):
    assert encode(pa.table({"x": values}), x=Column()).tolist() == [[value] for value in expected]


@pytest.mark.parametrize(
    "kind", [pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("us", "UTC"), pa.timestamp("ms")]
)
def test_times_are_seconds_since_the_earliest_of_training(kind):
    table = pa.table({"t": pa.array(TIMES, pa.timestamp("us")).cast(pa.timestamp(kind.unit)).cast(kind)})
    encoder = fit(table, t=Column())
    features = encoder.encode_table(table).numeric_NF[:, 0]
    assert features.tolist() == [1.5 * DAY_S * i for i in range(6)]
    column = encoder.columns[0]
    assert column.mean == pytest.approx(features.mean())
    assert column.std == pytest.approx(features.std())
    micros = [int(time.replace(tzinfo=datetime.UTC).timestamp() * 1e6) for time in TIMES]
    assert encoder.signature().inputs[0].dtype == "int64"
    np.testing.assert_array_equal(encoder.encode_columns({"t": micros}).numeric_NF[:, 0], features)
    np.testing.assert_array_equal(encoder.encode_columns({"t": np.array(micros)}).numeric_NF[:, 0], features)
    np.testing.assert_array_equal(encoder.encode_table(pa.table({"t": micros})).numeric_NF[:, 0], features)


def test_dates_and_null_times():
    table = pa.table({"t": pa.array([datetime.date(2024, 1, 1), None, datetime.date(2024, 1, 3)])})
    assert fit(table, t=Column(nulls="mean")).columns[0].origin_us == 1_704_067_200_000_000
    np.testing.assert_array_equal(encode(table, t=Column(nulls="mean"))[:, 0], [0, np.nan, 2 * DAY_S])
    with pytest.raises(DataError, match="column 't' holds 1 nulls"):
        encode(table, t=Column())
    with pytest.raises(DataError, match=r"a time.*one of error, mean; got 0"):
        encode(table, t=Column(nulls=0.0))


@pytest.mark.parametrize("element", [pa.float32(), pa.uint8(), pa.float64()])
def test_vectors_take_as_many_places_as_they_are_wide(element):
    vectors = pa.array([[1, 0, 1], [0, 1, 1]], pa.list_(element, 3))
    table = pa.table({"v": vectors, "x": [7.0, 8.0]})
    encoder = fit(table, x=Column(), v=Column())
    expected = [[7, 1, 0, 1], [8, 0, 1, 1]]
    assert encoder.encode_table(table).numeric_NF.tolist() == expected
    assert [column.name for column in encoder.numeric] == ["x", "v[0]", "v[1]", "v[2]"]
    assert encoder.signature().inputs[1].shape == (-1, 3)
    plain = {"x": [7.0, 8.0], "v": vectors.to_pylist()}
    assert encoder.encode_columns(plain).numeric_NF.tolist() == expected
    array = {"x": np.array([7.0, 8.0]), "v": np.array(vectors.to_pylist())}
    assert encoder.encode_columns(array).numeric_NF.tolist() == expected
    assert Encoder.model_validate_json(encoder.model_dump_json()) == encoder


def test_null_vectors_follow_the_policy():
    vectors = pa.array([[1, 2], None, [3, None]], pa.list_(pa.float32(), 2))
    table = pa.table({"v": vectors})
    np.testing.assert_array_equal(encode(table, v=Column(nulls=9.0)), [[1, 2], [9, 9], [3, 9]])
    encoder = fit(table, v=Column(nulls="mean"))
    np.testing.assert_array_equal(
        encoder.encode_table(table).numeric_NF, [[1, 2], [np.nan, np.nan], [3, np.nan]]
    )
    assert (encoder.columns[0].mean, encoder.columns[0].null_count) == (2.0, 3)
    with pytest.raises(DataError, match="column 'v' holds 3 nulls"):
        encode(table, v=Column())
    sliced = table.slice(1)
    np.testing.assert_array_equal(
        fit(table, v=Column(nulls=9.0)).encode_table(sliced).numeric_NF, [[9, 9], [3, 9]]
    )


def test_vectors_of_a_request_are_checked():
    encoder = fit(pa.table({"v": pa.array([[1, 2]], pa.list_(pa.float32(), 2))}), v=Column())
    with pytest.raises(InvalidInput, match="'v', row 1: expected 2 numbers, got \\[1\\]"):
        encoder.encode_columns({"v": [[1, 2], [1]]})
    with pytest.raises(InvalidInput, match="expected float32, got str 'a'"):
        encoder.encode_columns({"v": [["a", 2]]})


@pytest.mark.parametrize(
    ("kind", "column", "message"),
    [
        (pa.list_(pa.float32()), Column(), "lists of any length.*pad or pool them"),
        (pa.large_list(pa.float32()), Column(), "lists of any length"),
        (pa.list_(pa.string(), 2), Column(), "no model input"),
        (pa.struct([("a", pa.int8())]), Column(), "no model input; derive"),
        (pa.time64("us"), Column(), "no model input"),
        (pa.string(), Column(kind="numeric"), "declared numeric but holds text; declare it categorical"),
        (
            pa.list_(pa.int8(), 2),
            Column(kind="categorical"),
            "declared categorical but holds vectors of int8",
        ),
        (pa.timestamp("s"), Column(kind="categorical"), "declared categorical but holds a time"),
    ],
)
def test_what_no_tensor_holds_is_refused_with_the_way_out(kind, column, message):
    schema = pa.schema({"c": kind, "y": pa.float32()})
    with pytest.raises(DataError, match=f"column 'c'.*{message}"):
        check_schema(schema, {"c": column}, "y", "train data")


def test_text_without_a_vocabulary_is_refused():
    table = pa.table({"g": pa.array([None, None], pa.string())})
    with pytest.raises(DataError, match=r"'g' has no vocabulary.*leave it out"):
        fit(table, g=Column(nulls="unknown"))


def test_all_kinds_through_the_loader(tmp_path):
    rows = 60
    table = pa.table(
        {
            "row": np.arange(rows),
            "b": pa.array(np.arange(rows) % 2 == 0),
            "d": pa.array(np.array(["u", "v", "w"])[np.arange(rows) % 3]).dictionary_encode(),
            "t": pa.array(np.arange(rows).astype("datetime64[s]")),
            "v": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(rows * 4, dtype=np.float32)), 4),
            "m": pa.array([Decimal(i) / 4 for i in range(rows)], pa.decimal128(9, 2)),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=13)
    names = ["b", "d", "t", "v", "m"]
    plan = FeaturePlan({name: Column() for name in names}, "row", "regression", table.schema)
    encoder = learn_encoder(plan, take_snapshot(tmp_path))
    assert encoder.categorical == plan.fit(plan.statistics(table)).categorical
    for batch in Loader(take_snapshot(tmp_path), encoder, LoaderConfig(batch_rows=16, window=2)).epoch(0):
        row = batch.labels_N.astype(int)
        found = batch.features.numeric_NF
        np.testing.assert_array_equal(found[:, 0], row % 2 == 0)
        np.testing.assert_array_equal(found[:, 1], row)
        np.testing.assert_array_equal(found[:, 2:6], row[:, None] * 4 + np.arange(4))
        np.testing.assert_array_equal(found[:, 6], row / 4)
        vocabulary = np.array(encoder.categorical[0].vocabulary)
        assert (vocabulary[batch.features.codes_NC[:, 0] - 1] == np.array(["u", "v", "w"])[row % 3]).all()


def test_errors_of_values_name_the_file(tmp_path):
    good = pa.table({"x": [1.0, 2.0], "y": [0.0, 1.0]})
    pq.write_table(good, tmp_path / "a.parquet")
    plan = FeaturePlan({"x": Column()}, "y", "regression", good.schema)
    encoder = plan.fit(plan.statistics(good))
    pq.write_table(pa.table({"x": [None, 2.0], "y": [0.0, 1.0]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet', row group 0: column 'x' holds 1 nulls"):
        list(Loader(take_snapshot(tmp_path), encoder, LoaderConfig()).epoch(0))
