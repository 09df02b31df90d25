"""The rows that boosting reads: the order's first epoch, whole, with weights where it draws unequally."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.data import Snapshot, take_snapshot
from raymill.data.orders import EpochPlan
from raymill.features import Encoder, FittedColumn
from raymill.train.xgboost_rows import PlannedRows

GROUP_ROWS = (5, 3, 7, 4)


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    schema = pa.schema({"a": pa.float32(), "row": pa.int64()})
    with pq.ParquetWriter(tmp_path / "part-0.parquet", schema) as writer:
        first = 0
        for rows in GROUP_ROWS:
            ids = np.arange(first, first + rows)
            writer.write_table(pa.table({"a": ids.astype(np.float32), "row": ids}, schema=schema))
            first += rows
    return take_snapshot(tmp_path)


def encoder() -> Encoder:
    column = FittedColumn(name="a", kind="numeric", dtype="float32", nulls="error", null_count=0)
    return Encoder(columns=(column,), target="row", task="regression")


def test_workers_parts_are_the_whole(snapshot):
    rows = PlannedRows.all(snapshot, encoder())
    parts = [rows.load(range(rank, rows.groups, 3)) for rank in range(3)]
    labels = np.concatenate([labels_N for _, labels_N, _ in parts])
    assert sorted(labels.tolist()) == list(range(sum(GROUP_ROWS)))
    for rows_NF, labels_N, weights_N in parts:
        np.testing.assert_array_equal(rows_NF[:, 0], labels_N)
        assert weights_N is None


def test_picked_rows_and_weights_of_the_plan(snapshot):
    plan = EpochPlan(
        np.array([0, 2]), np.array([2, 3]), lambda group: np.array([1, 3] if group == 0 else [0, 2, 6]),
        np.array([1.0, 3.0], np.float32),
    )  # fmt: skip
    rows = PlannedRows(snapshot, encoder(), plan)
    _, labels_N, weights_N = rows.load([0, 1])
    assert labels_N.tolist() == [1, 3, 8, 10, 14]
    np.testing.assert_allclose(weights_N, np.array([1, 1, 3, 3, 3]) * 5 / 11)
    assert weights_N.mean() == pytest.approx(1)
    assert rows.visits_G(10).tolist() == [20, 0, 30, 0]
