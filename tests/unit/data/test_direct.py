"""Columns decoded straight into rows are, to the bit, what Arrow's tables give; broken pages are refused."""

from __future__ import annotations

import importlib
import itertools
import os
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill import kernels
from raymill.data import Loader, LoaderConfig, direct, take_snapshot
from raymill.data.decode import Decoder
from raymill.errors import DataError
from raymill.features import Encoder, FittedColumn

ROOT = Path(__file__).parents[3]
TYPES = [
    pa.float32(), pa.float64(), pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(),
    pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
]  # fmt: skip
TABLES = [pa.float16(), pa.timestamp("us"), pa.decimal128(21, 2), pa.list_(pa.float32(), 2)]
CODECS = ["none", "snappy", "gzip", "zstd", "lz4", "brotli"]
NUMBERS = itertools.count()


def test_the_compiled_module_is_installed():
    assert direct.compiled is not None, "run `make setup`: the loader would take a third as long again"
    assert direct.compiled.FIELDS == 9


def values(kind: pa.DataType, rows: int, distinct: int, nulls: float, rng: np.random.Generator) -> pa.Array:
    """Return random values of a type, extreme ones among them."""
    mask = rng.random(rows) < nulls
    if pa.types.is_fixed_size_list(kind):
        return pa.array([None if null else [1.5, 2.5] for null in mask], kind)
    if pa.types.is_boolean(kind):
        return pa.array(rng.random(rows) < 0.5, kind, mask=mask)
    if pa.types.is_timestamp(kind) or pa.types.is_decimal(kind):
        return pa.array(rng.integers(0, 10**6, rows).astype(np.int32)).cast(pa.int64()).cast(kind, safe=False)
    dtype = np.dtype(kind.to_pandas_dtype())
    if pa.types.is_floating(kind):
        pool = rng.standard_normal(distinct).astype(dtype)
        pool[:4] = [np.nan, np.inf, -0.0, 1.1][: len(pool)]
    else:
        limits = np.iinfo(dtype)
        pool = rng.integers(limits.min, limits.max, distinct, dtype, endpoint=True)
        pool[:2] = [limits.min, limits.max][: len(pool)]
    return pa.array(pool[rng.integers(0, distinct, rows)], kind, mask=mask)


def encoder_of(kinds: list[pa.DataType], policies: list[str | float], task: str = "regression") -> Encoder:
    columns = tuple(
        FittedColumn(
            name=f"c{i}",
            kind="numeric",
            dtype="float64" if not pa.types.is_timestamp(kind) else "int64",
            width=2 if pa.types.is_fixed_size_list(kind) else 1,
            origin_us=0 if pa.types.is_timestamp(kind) else None,
            nulls=policy,
            null_count=0,
        )
        for i, (kind, policy) in enumerate(zip(kinds, policies, strict=True))
    )
    return Encoder(columns=columns, target="y", task=task)


def decoded(snapshot, encoder, group, start, stop, pick_N, *, compiled: bool):
    """Return features and labels as bits, or the error's text; and which columns were read directly."""
    decoder = Decoder(snapshot, encoder)
    features, labels_N = decoder.empty(stop - start)
    features.numeric_NF[:], labels_N[:] = 7, 7
    names: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(direct, "compiled", None)
        plan = decoder._direct.plan
        patch.setattr(
            decoder._direct, "plan", lambda *given: (found := plan(*given), names.extend(found.names))[0]
        )
        try:
            decoder.decode_into(group, start, stop, features, labels_N, pick_N)
        except DataError as error:
            return str(error), names
    return (features.numeric_NF.view(np.uint32).tolist(), labels_N.view(np.uint32).tolist()), names


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_what_comes_is_what_tables_give(tmp_path_factory, data):
    draw = data.draw
    kinds = draw(st.lists(st.sampled_from(TYPES + TABLES), min_size=1, max_size=6))
    policies = [
        draw(st.sampled_from(["mean", "error"] if pa.types.is_timestamp(kind) else ["mean", 2.5, "error"]))
        for kind in kinds
    ]
    rows = draw(st.integers(1, 6_000))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    distinct = draw(st.sampled_from([1, 2, 3, 200, 5_000]))
    nulls = draw(st.sampled_from([0, 0, 0.01, 0.5, 1]))
    columns = {f"c{i}": values(kind, rows, distinct, nulls, rng) for i, kind in enumerate(kinds)}
    columns["y"] = pa.array(rng.integers(0, 2, rows), draw(st.sampled_from(TYPES[:1] + TYPES[3:])))
    required = draw(st.booleans()) and not any(column.null_count for column in columns.values())
    schema = pa.schema([pa.field(name, col.type, nullable=not required) for name, col in columns.items()])
    path = tmp_path_factory.mktemp("direct", numbered=True)
    version = draw(st.sampled_from(["1.0", "2.6"]))
    for part in range(draw(st.integers(1, 2))):
        pq.write_table(
            pa.table(columns, schema=schema), path / f"{part}.parquet",
            row_group_size=draw(st.sampled_from([1_000, 2_500, 10_000])),
            compression=draw(st.sampled_from(CODECS)),
            data_page_version=draw(st.sampled_from(["1.0", "2.0"])),
            data_page_size=draw(st.sampled_from([100, 5_000, 1 << 20])),
            use_dictionary=draw(st.booleans()),
            dictionary_pagesize_limit=draw(st.sampled_from([64, 3_000, 1 << 20])),
            write_batch_size=draw(st.sampled_from([17, 1_024])),
            version=version,
            write_statistics=draw(st.booleans()),
        )  # fmt: skip
    snapshot, encoder = take_snapshot(path), encoder_of(kinds, policies)
    group = draw(st.integers(0, snapshot.groups - 1))
    have = int(snapshot.group_rows_G[group])
    start = draw(st.integers(0, have - 1))
    stop = draw(st.integers(start + 1, have))
    pick_N = np.sort(rng.choice(have, stop, replace=False)) if draw(st.booleans()) else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "BLOCK_WORDS", draw(st.sampled_from([64, 1 << 15])))
        patch.setattr(direct, "LOCAL_READ_BYTES", draw(st.sampled_from([1, 1_000, 1 << 19])))
        found, names = decoded(snapshot, encoder, group, start, stop, pick_N, compiled=True)
        expected, none = decoded(snapshot, encoder, group, start, stop, pick_N, compiled=False)
    plain = [f"c{i}" for i, kind in enumerate(kinds) if kind in TYPES]
    assert set(plain) <= set(names)
    assert none == []
    if isinstance(expected, str) and isinstance(found, str):  # of two columns with nulls, either is named
        found, expected = (re.sub(r"'c\d' holds \d+", "", text) for text in (found, expected))
    assert found == expected


@pytest.mark.parametrize("encoding", ["DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT"])
def test_other_encodings_go_through_tables(tmp_path, encoding):
    table = pa.table({"c0": np.arange(500, dtype=np.int32), "y": np.zeros(500, np.float32)})
    pq.write_table(table, tmp_path / "a.parquet", use_dictionary=False, column_encoding={"c0": encoding})
    snapshot, encoder = take_snapshot(tmp_path), encoder_of([pa.int32()], ["error"])
    found, names = decoded(snapshot, encoder, 0, 0, 500, None, compiled=True)
    assert names == ["y"]
    assert found == decoded(snapshot, encoder, 0, 0, 500, None, compiled=False)[0]


@pytest.mark.parametrize("exact", [True, False])
def test_labels_that_float32_does_not_hold_are_left_to_tables(tmp_path, exact):
    table = pa.table({"c0": np.zeros(2, np.float32), "y": np.array([1, (1 << 24) + (not exact)])})
    pq.write_table(table, tmp_path / "a.parquet")
    chunks = plan_of(take_snapshot(tmp_path), encoder_of([pa.float32()], ["error"]))
    assert chunks.names == (["c0", "y"] if exact else ["c0"])


def plan_of(snapshot, encoder):
    decoder = Decoder(snapshot, encoder)
    with decoder._reader.open(0) as source:
        return decoder._direct.plan(decoder._reader.footer(0, source), 0, decoder._reader.columns)


@pytest.mark.parametrize("compiled", [True, False])
def test_null_labels_are_refused(tmp_path, compiled):
    pq.write_table(
        pa.table({"c0": [1.0, 2.0], "y": pa.array([1.0, None], pa.float32())}), tmp_path / "a.parquet"
    )
    found, _ = decoded(
        take_snapshot(tmp_path), encoder_of([pa.float64()], ["error"]), 0, 0, 2, None, compiled=compiled
    )
    assert re.search(r"a\.parquet', row group 0: target 'y' has 1 nulls; drop rows", found)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("page", ["1.0", "2.0"])
def test_broken_bytes_give_the_error_or_other_numbers_but_never_a_crash(tmp_path, codec, page):
    rng = np.random.default_rng(0)
    kinds = [pa.float32(), pa.int64(), pa.bool_(), pa.float64()]
    columns = {f"c{i}": values(kind, 400, 90, 0.2 * (i % 2), rng) for i, kind in enumerate(kinds)}
    columns["y"] = pa.array(np.zeros(400, np.float32))
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table(columns), path, compression=codec, data_page_version=page, data_page_size=300,
        dictionary_pagesize_limit=300,
    )  # fmt: skip
    snapshot, encoder = take_snapshot(tmp_path), encoder_of(kinds, ["mean"] * 4)
    good, status = path.read_bytes(), path.stat()
    end = max(row[2] for row in plan_of(snapshot, encoder).fields_C.tolist())
    errors = set()
    for _ in range(300):
        broken = bytearray(good)
        for at in rng.integers(4, end, rng.integers(1, 4)):
            broken[at] = rng.integers(0, 256) if rng.random() < 0.5 else broken[at] ^ 1 << rng.integers(0, 8)
        path.write_bytes(broken)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        found, names = decoded(snapshot, encoder, 0, 0, 400, None, compiled=True)
        assert len(names) == 5
        if isinstance(found, str):
            errors.add(found)
    assert len(errors) > 3
    assert all("a.parquet', row group 0" in error and "\n" not in error for error in errors)


def test_one_reader_serves_one_thread_at_a_time(tmp_path):
    pq.write_table(
        pa.table({"c0": np.zeros(9, np.float32), "y": np.zeros(9, np.float32)}), tmp_path / "a.parquet"
    )
    snapshot, encoder = take_snapshot(tmp_path), encoder_of([pa.float32()], ["error"])
    chunks, reader = plan_of(snapshot, encoder), direct.compiled.Reader()
    nulls_C, numeric, labels = np.zeros(2, np.int64), np.zeros((9, 1), np.float32), np.zeros(9, np.float32)

    def run(read, fields_C=chunks.fields_C, stop=9, pick=None):
        reader.read(read, fields_C, chunks.fills_C, nulls_C, numeric, labels, 16, 0, stop, pick, 1 << 10)

    with pytest.raises(RuntimeError, match="one thread at a time"):
        run(lambda position, view: run(None))
    with pytest.raises(ZeroDivisionError):  # what Python raises while it reads comes out as it is
        run(lambda position, view: 1 // 0)
    with pytest.raises(ValueError, match="the file ends before its column does"):
        run(lambda position, view: len(view) - 1)
    with pytest.raises(ValueError, match="must fit each other"):
        run(None, stop=10)
    with pytest.raises(ValueError, match="another shape or size"):
        run(None, fields_C=chunks.fields_C.astype(np.int32))
    data = (tmp_path / "a.parquet").read_bytes()

    def read(position, view):
        view[:] = data[position : position + len(view)]
        return len(view)

    run(read)
    with pytest.raises(ValueError, match="fewer values than its file says"):
        run(read, pick=np.array([0, 1, 2, 3, 4, 5, 6, 7, 9]))


def test_readers_are_shared_by_threads(tmp_path):
    rows = 3_000
    for part in range(6):
        ids = np.arange(rows, dtype=np.float32) + part * rows
        pq.write_table(pa.table({"c0": ids, "y": ids}), tmp_path / f"{part}.parquet", row_group_size=100)
    loader = Loader(
        take_snapshot(tmp_path), encoder_of([pa.float32()], ["error"]),
        LoaderConfig(batch_rows=512, lanes=4), threads=8,
    )  # fmt: skip
    for epoch in range(3):
        batches = list(loader.epoch(epoch))
        found = np.concatenate([batch.labels_N for batch in batches])
        assert sorted(found.tolist()) == list(range(6 * rows))
        assert all((batch.features.numeric_NF[:, 0] == batch.labels_N).all() for batch in batches)


def test_without_the_module_a_warning_says_what_it_costs(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "raymill_parquet", None)
    kept = dict(vars(direct))
    try:
        importlib.reload(direct)
        assert direct.compiled is None
        assert f"cannot be used with pyarrow {pa.__version__}" in caplog.text
    finally:
        vars(direct).update(kept)


def test_it_is_built_against_the_pyarrow_that_runs():
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    pinned = next(
        line for line in (ROOT / "constraints.txt").read_text().split() if line.startswith("pyarrow==")
    )
    assert pinned in built
