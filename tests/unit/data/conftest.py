"""A small lake: Parquet files whose label is the row's number, so that every row can be told."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.data import Loader, Snapshot, take_snapshot
from raymill.features import Encoder, FittedColumn

Lake = tuple[Snapshot, Encoder]


def encoder() -> Encoder:
    """Return an encoder of columns a (half the row's number) and g (a category), target row."""
    numeric = FittedColumn(name="a", kind="numeric", dtype="float32", nulls="error", null_count=0)
    category = FittedColumn(
        name="g", kind="categorical", dtype="string", nulls="unknown", null_count=0, vocabulary=("x", "y")
    )
    return Encoder(columns=(numeric, category), target="row", task="regression")


def write_file(path: Path, group_rows: Sequence[int], first_row: int = 0) -> None:
    """Write one file with row groups of `group_rows` rows, numbered from `first_row` on."""
    schema = pa.schema({"a": pa.float32(), "g": pa.string(), "row": pa.int64()})
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema) as writer:
        for rows in group_rows:
            ids = np.arange(first_row, first_row + rows)
            names = np.array(["x", "y", "z"])[ids % 3]
            writer.write_table(
                pa.table({"a": (ids / 2).astype(np.float32), "g": names, "row": ids}, schema=schema)
            )
            first_row += rows


def write_lake(root: Path, files: Sequence[Sequence[int]]) -> None:
    """Write one file a list of row-group sizes; rows are numbered through from 0."""
    first = 0
    for number, group_rows in enumerate(files):
        write_file(root / f"part-{number:05d}.parquet", group_rows, first)
        first += sum(group_rows)


def row_ids(loader: Loader, epoch: int = 0, from_step: int = 0) -> list[list[int]]:
    """Return the row numbers of every batch."""
    return [batch.labels_N.astype(int).tolist() for batch in loader.epoch(epoch, from_step=from_step)]


@pytest.fixture(scope="session")
def make_lake(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Sequence[Sequence[int]]], Lake]:
    """Return a function from row-group sizes, one list a file, to a snapshot and its encoder."""
    root, numbers, made = tmp_path_factory.mktemp("lakes"), itertools.count(), {}

    def make(files: Sequence[Sequence[int]]) -> Lake:
        key = tuple(tuple(group_rows) for group_rows in files)
        if key not in made:
            path = root / str(next(numbers))
            write_lake(path, files)
            made[key] = take_snapshot(str(path)), encoder()
        return made[key]

    return make


@pytest.fixture(scope="session", name="row_ids")
def row_ids_fixture() -> Callable[..., list[list[int]]]:
    return row_ids
