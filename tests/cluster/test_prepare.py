"""Preparation of any table, not only flights: CSV and Parquet in, exact splits out, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from conftest import Cluster

from raymill.config import parse
from raymill.data import take_snapshot
from raymill.errors import Conflict, DataError, NotFound, RaymillError
from raymill.prepare.run import prepare
from raymill.prepare.spec import PrepareSpec

ROWS = 1000


def raw(rows: int = ROWS) -> pa.Table:
    return pa.table(
        {
            "id": list(range(rows)),
            "shop": [f"s{i % 3}" for i in range(rows)],
            "amount": [None if i % 10 == 0 else i / 2 for i in range(rows)],
        }
    )


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., Path]:
    def write(kind: str, rows: int = ROWS, files: int = 1) -> Path:
        if kind == "csv":
            pcsv.write_csv(raw(rows), tmp_path / "raw.csv")
            return tmp_path / "raw.csv"
        (tmp_path / "raw").mkdir()
        each = -(-rows // files)
        for number in range(files):
            pq.write_table(raw(rows).slice(number * each, each), tmp_path / "raw" / f"{number}.parquet")
        return tmp_path / "raw"

    return write


def spec(path: Path, output: Path, **changes: Any) -> PrepareSpec:
    document = {
        "source": {"path": str(path)},
        "derive": {"large": "amount > 250"},
        "require": ["amount"],
        "columns": {"id": "int32", "shop": "string", "amount": "float32", "large": "bool"},
        "split": {"train": "id < 700", "test": "id >= 800"},
        "output": str(output),
        "row_group_rows": 100,
        "file_rows": 300,
    }
    return parse(PrepareSpec, document | changes)


def ids(folder: Path) -> list[int]:
    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file)["id"].to_pylist()]


@pytest.mark.parametrize(("kind", "files"), [("csv", 1), ("parquet", 3)])
def test_rows_keep_their_order_and_none_is_lost(
    joined: Cluster, source: Callable[..., Path], tmp_path: Path, kind: str, files: int
) -> None:
    result = prepare(spec(source(kind, files=files), tmp_path / "out"))
    assert result["counts"] == {"read": 1000, "no_outcome": 100, "outside": 90}
    kept = [i for i in range(ROWS) if i % 10]
    assert ids(tmp_path / "out/train") == [i for i in kept if i < 700]
    assert ids(tmp_path / "out/test") == [i for i in kept if i >= 800]
    snapshot = take_snapshot(str(tmp_path / "out/train"))
    assert snapshot.group_rows_G.tolist() == [100, 100, 100, 100, 100, 100, 30]
    card = json.loads((tmp_path / "out/_card.json").read_text())
    amount = card["splits"]["train"]["columns"]["amount"]
    assert (amount["type"], amount["nulls"], amount["minimum"], amount["maximum"]) == ("float", 0, 0.5, 349.5)


def test_a_join_adds_columns_and_leaves_null_where_nothing_matches(
    joined: Cluster, source: Callable[..., Path], tmp_path: Path
) -> None:
    pcsv.write_csv(pa.table({"shop": ["s0", "s1"], "town": ["Oslo", "Bergen"]}), tmp_path / "shops.csv")
    joins = [
        {"source": {"path": str(tmp_path / "shops.csv")}, "keys": ["shop"], "columns": {"town": "shop_town"}}
    ]
    columns = {"id": "int64", "shop_town": "string"}
    prepare(spec(source("csv"), tmp_path / "out", joins=joins, columns=columns))
    towns = pq.read_table(tmp_path / "out/train/part-00000.parquet").slice(0, 3).to_pylist()
    assert towns == [
        {"id": 1, "shop_town": "Bergen"}, {"id": 2, "shop_town": None}, {"id": 3, "shop_town": "Oslo"},
    ]  # fmt: skip


def test_preparing_otherwise_over_a_dataset_must_be_asked_for(
    joined: Cluster, source: Callable[..., Path], tmp_path: Path
) -> None:
    path, out = source("csv"), tmp_path / "out"
    prepare(spec(path, out))
    assert prepare(spec(path, out))["unchanged"] is True
    other = {"split": {"train": "id < 500"}}
    with pytest.raises(Conflict, match="replace=true"):
        prepare(spec(path, out, **other))
    assert (out / "test").exists()
    result = prepare(spec(path, out, **other, replace=True))
    assert result["unchanged"] is False
    assert not (out / "test").exists()
    assert sorted(child.name for child in tmp_path.iterdir()) == ["out", "raw.csv"]


BAD: dict[str, tuple[dict[str, Any], type[RaymillError], str]] = {
    "no such source": ({"source": {"path": "/nowhere.csv"}}, NotFound, "no source at '/nowhere.csv'"),
    "unknown column kept": ({"columns": {"shp": "string"}}, DataError, "Did you mean 'shop'"),
    "expression of an unknown column": (
        {"derive": {"large": "amont > 1"}},
        DataError,
        "'amont' is not defined",
    ),
    "a type that does not fit": ({"columns": {"shop": "int32"}}, DataError, "cannot be stored as int32"),
    "splits that overlap": (
        {"split": {"a": "id < 9", "b": "id < 5"}},
        DataError,
        "overlaps an earlier split",
    ),
    "a split without rows": ({"split": {"a": "id < 0"}}, DataError, "split 'a' (id < 0) holds no rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_leaves_nothing_behind(
    joined: Cluster, source: Callable[..., Path], tmp_path: Path, case: str
) -> None:
    changes, kind, words = BAD[case]
    changes = {"derive": {}, "require": [], "columns": {"id": "int32"}} | changes
    with pytest.raises(kind) as caught:
        prepare(spec(source("csv"), tmp_path / "out", **changes))
    assert words in str(caught.value)
    assert list(tmp_path.glob("out/*")) == []
    assert not list(tmp_path.glob("out.*"))
