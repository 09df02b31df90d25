"""Snapshots: identity, partitions, storage, and errors that name the file."""

from __future__ import annotations

import re

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.data import (
    Loader,
    LoaderConfig,
    learn_encoder,
    listing,
    parse_predicate,
    take_snapshot,
    where,
)
from raymill.data.store import FILE_NAME, load, save
from raymill.errors import Corrupt, DataError, NotFound
from raymill.features import Column, Encoder, FittedColumn
from raymill.fitting import FeaturePlan
from raymill.storage import locate


def write(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def table(rows=3, **extra):
    return pa.table({"a": np.arange(rows, dtype=np.float32), "row": np.arange(rows), **extra})


def test_id_follows_content(tmp_path):
    write(tmp_path / "a.parquet", table())
    before = take_snapshot(tmp_path)
    assert take_snapshot(tmp_path).id == before.id
    write(tmp_path / "b.parquet", table(4))
    after = take_snapshot(tmp_path)
    assert after.id != before.id
    assert (after.rows, after.groups, len(after.files)) == (7, 2, 2)
    assert [file.path for file in after.files] == ["a.parquet", "b.parquet"]
    assert after.files[-1].path == "b.parquet"
    with pytest.raises(IndexError):
        after.files[2]


def test_long_listings_show_their_progress(tmp_path, monkeypatch, capsys):
    for number in range(3):
        write(tmp_path / f"{number}.parquet", table())
    take_snapshot(tmp_path)
    assert capsys.readouterr().out == "", "nothing of what is done at once"
    monkeypatch.setattr("raymill.progress.INTERVAL_S", 0.0)
    take_snapshot(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"footers of .+ \[######\.+\]  33% 1/3 files, [\d,]+ files/s, \d+ s left", lines[0])
    assert re.match(r"footers of .+ \[#+\] 100% 3/3 files, [\d,]+ files/s, done", lines[-1])


def test_hidden_files_are_passed_over(tmp_path):
    write(tmp_path / "a.parquet", table())
    write(tmp_path / "_tmp" / "b.parquet", table())
    write(tmp_path / ".c.parquet", table())
    assert len(take_snapshot(tmp_path).files) == 1


def test_the_odd_file_is_named(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.parquet", table(x=[1, 2, 3]))
    write(tmp_path / "3.parquet", table())
    with pytest.raises(DataError, match=r"3\.parquet' lacks column 'x', which '0\.parquet' has; write it"):
        take_snapshot(tmp_path)
    write(tmp_path / "3.parquet", table(x=["1", "2", "3"]))
    with pytest.raises(DataError, match=r"3\.parquet' holds column 'x' as string, but '0\.parquet' as int64"):
        take_snapshot(tmp_path)
    write(tmp_path / "3.parquet", table(x=[1, 2, 3], y=[1, 2, 3]))
    with pytest.raises(DataError, match=r"3\.parquet' has column 'y', which '0\.parquet' lacks"):
        take_snapshot(tmp_path)


def test_a_column_named_twice_is_refused(tmp_path):
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])
    write(tmp_path / "0.parquet", twice)
    with pytest.raises(DataError, match=r"0\.parquet' has column 'a' twice"):
        take_snapshot(tmp_path)


@pytest.mark.parametrize("first", range(4))
def test_text_is_text_in_whichever_form_a_writer_named(tmp_path, first):
    """Writers of Parquet name four of Arrow's types, and the stored bytes are the same."""
    words = pa.array(["u", "v", None, "u"])
    forms = [words, words.cast(pa.large_string()), words.cast(pa.string_view()), words.dictionary_encode()]
    for number, form in enumerate(forms[first:] + forms[:first]):
        write(tmp_path / f"{number}.parquet", table(4, word=form))
    snapshot = take_snapshot(tmp_path)
    plan = FeaturePlan({"word": Column(nulls="unknown")}, "row", "regression", snapshot.schema)
    encoder = learn_encoder(plan, snapshot)
    assert encoder.columns[0].vocabulary == ("u", "v")
    config = LoaderConfig(batch_rows=16, shuffle=False)
    (batch,) = Loader(snapshot, encoder, config).epoch(0)
    assert batch.features.codes_NC.ravel().tolist() == [1, 2, 0, 1] * 4
    for condition, rows in (
        (["word", "==", "u"], 8),
        (["word", "in", ["v", "w"]], 4),
        (["word", ">", "u"], 4),
    ):
        assert where(snapshot, parse_predicate([condition], snapshot.schema)).rows == rows


def test_no_data_is_refused(tmp_path):
    with pytest.raises(NotFound, match="no dataset at"):
        take_snapshot(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"no \*.parquet file"):
        take_snapshot(tmp_path)
    write(tmp_path / "empty.parquet", table(0))
    with pytest.raises(DataError, match="1 files and no rows"):
        take_snapshot(tmp_path)


def test_hive_partitions_become_columns(tmp_path):
    first = 0
    for year in (2023, 2024):
        for name in ("a b", "c"):
            path = tmp_path / f"year={year}" / f"name={name.replace(' ', '%20')}" / "p.parquet"
            write(path, pa.table({"row": np.arange(first, first + 5)}))
            first += 5
    snapshot = take_snapshot(tmp_path)
    assert snapshot.schema.names == ["row", "year", "name"]
    assert snapshot.schema.field("year").type == pa.int64()
    encoder = Encoder(
        columns=(
            FittedColumn(name="year", kind="numeric", dtype="int64", nulls="error", null_count=0),
            FittedColumn(
                name="name", kind="categorical", dtype="string", nulls="error", null_count=0,
                vocabulary=("c", "a b"),
            ),
        ),
        target="row", task="regression",
    )  # fmt: skip
    for batch in Loader(snapshot, encoder, LoaderConfig(batch_rows=7)).epoch(0):
        rows = batch.labels_N.astype(int)
        assert batch.features.numeric_NF[:, 0].tolist() == np.where(rows < 10, 2023, 2024).tolist()
        assert batch.features.codes_NC[:, 0].tolist() == np.where(rows % 10 < 5, 2, 1).tolist()


def test_partitions_that_cannot_be_columns_are_refused(tmp_path):
    write(tmp_path / "k=1" / "a.parquet", table())
    write(tmp_path / "b.parquet", table())
    with pytest.raises(DataError, match=r"lies in partition folders \['k'\]"):
        take_snapshot(tmp_path)
    (tmp_path / "b.parquet").unlink()
    write(tmp_path / "k=1" / "a.parquet", table(k=[1, 1, 1]))
    with pytest.raises(DataError, match="both as a partition folder and as a column"):
        take_snapshot(tmp_path)


def test_a_stored_snapshot_spares_the_footers(tmp_path, monkeypatch):
    for number in range(4):
        write(tmp_path / f"k={number}" / "a.parquet", table(3 + number))
    before = take_snapshot(tmp_path, stored="beside")
    assert (tmp_path / FILE_NAME).exists()
    write(tmp_path / "k=4" / "a.parquet", table(9))
    read = []
    parse = listing._parse_footer
    monkeypatch.setattr(
        listing, "_parse_footer", lambda location: read.append(location.path) or parse(location)
    )
    after = take_snapshot(tmp_path, stored="beside")
    assert sorted(path.split("/")[-2] for path in read) == ["k=0", "k=4"]  # the first gives the schema
    assert after.rows == before.rows + 9
    assert after.id == take_snapshot(tmp_path).id


def test_a_stored_snapshot_is_the_same_snapshot(tmp_path):
    for number in range(3):
        write(tmp_path / f"k={number}" / "a.parquet", table(3 + number))
    snapshot = take_snapshot(tmp_path)
    save(snapshot, locate(tmp_path / "cache.arrow"))
    again = load(locate(tmp_path / "cache.arrow"), snapshot.root)
    assert again.id == snapshot.id
    assert again.schema == snapshot.schema
    assert list(again.files) == list(snapshot.files)
    assert again.partition_values(2) == {"k": 2}
    (tmp_path / "cache.arrow").write_bytes(b"what is this")
    with pytest.raises(Corrupt, match="is no snapshot"):
        load(locate(tmp_path / "cache.arrow"), snapshot.root)


def test_a_rewritten_dataset_is_held_to_its_new_schema(tmp_path):
    for number in range(2):
        write(tmp_path / f"{number}.parquet", table())
    take_snapshot(tmp_path, stored="beside")
    write(tmp_path / "0.parquet", table(x=[1, 2, 3]))
    with pytest.raises(DataError, match=r"1\.parquet' lacks column 'x'"):
        take_snapshot(tmp_path, stored="beside")


def test_fsspec_file_systems_work(make_lake, row_ids):
    # a row group a file: a memory file is one object with one position, whoever opens it, and no two threads'
    snapshot, encoder = make_lake([[5], [6], [7]])
    memory = fsspec.filesystem("memory")
    for file in snapshot.files:
        memory.pipe(f"/lake/{file.path}", (snapshot.root / file.path).read_bytes())
    remote = take_snapshot("memory://lake")
    rows = row_ids(Loader(remote, encoder, LoaderConfig(batch_rows=4)))
    assert sorted(row for batch in rows for row in batch) == list(range(18))
    memory.rm("/lake", recursive=True)
