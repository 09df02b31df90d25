"""What can happen to files and workers while an epoch is read."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.data import Loader, LoaderConfig, listing, take_snapshot
from raymill.errors import DataError
from raymill.features import Encoder, FittedColumn

ROWS = 1000


def encoder_of(*names: str) -> Encoder:
    columns = [
        FittedColumn(name=name, kind="numeric", dtype="float32", nulls="error", null_count=0)
        for name in names
    ]
    return Encoder(columns=tuple(columns), target="row", task="regression")


def write(path: Path, first: int, rows: int = ROWS, group_rows: int = 100, **extra: np.ndarray) -> None:
    ids = np.arange(first, first + rows)
    table = pa.table({"a": ids.astype(np.float32), "row": ids, **extra})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group_rows)


@pytest.fixture(name="lake")
def lake_fixture(tmp_path: Path) -> Path:
    for number in range(4):
        write(tmp_path / f"{number}.parquet", number * ROWS)
    return tmp_path


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 3)


def rewrite(path: Path) -> None:
    write(path, 90_000, rows=990)


def replace(path: Path) -> None:
    write(path.with_name("aside"), 90_000)
    path.with_name("aside").replace(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "changed since the snapshot"),
        (rewrite, "changed since the snapshot"),
        (replace, "changed since the snapshot"),
        (Path.unlink, "vanished since the snapshot"),
    ],
)
def test_a_file_damaged_during_the_epoch_is_named_and_nothing_wrong_is_handed_out(lake, damage, message):
    snapshot = take_snapshot(lake)
    loader = Loader(snapshot, encoder_of("a"), LoaderConfig(batch_rows=50, window=1), threads=1)
    batches = loader.epoch(0)
    seen = [next(batches).labels_N]
    damage(lake / "2.parquet")
    with pytest.raises(DataError, match=rf"2\.parquet' {message} {snapshot.id}.*start a new run"):
        seen += [batch.labels_N for batch in batches]
    rows = np.concatenate(seen).astype(int).tolist()
    assert len(rows) == len(set(rows))
    assert set(rows) <= set(range(4 * ROWS))


def test_a_damaged_page_is_named(lake):
    snapshot = take_snapshot(lake)
    path = lake / "1.parquet"
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[4:2000] = bytes(1996)
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DataError, match=r"1\.parquet', row group \d+, cannot be read: .*restore the file"):
        list(Loader(snapshot, encoder_of("a"), LoaderConfig()).epoch(0))


def test_a_truncated_file_is_named_by_the_snapshot(lake):
    truncate(lake / "3.parquet")
    with pytest.raises(DataError, match=r"3\.parquet' cannot be read as Parquet .* may be truncated"):
        take_snapshot(lake)


def test_a_column_missing_in_the_last_file_is_named(lake):
    pq.write_table(pa.table({"row": [1]}), lake / "9.parquet")
    with pytest.raises(DataError, match=r"9\.parquet' lacks column 'a', which '0\.parquet' has"):
        take_snapshot(lake)


def test_files_and_row_groups_without_rows_are_no_trouble(tmp_path):
    schema = pa.schema({"a": pa.float32(), "row": pa.int64()})
    for number in range(6):
        with pq.ParquetWriter(tmp_path / f"{number}.parquet", schema) as writer:
            for part in range(3 if number % 2 else 0):
                ids = np.arange(5) + 10 * number + 5 * part if part != 1 else np.arange(0)
                writer.write_table(pa.table({"a": ids.astype(np.float32), "row": ids}, schema=schema))
    snapshot = take_snapshot(tmp_path)
    assert (snapshot.rows, len(snapshot.files)) == (30, 6)
    rows = [
        Loader(snapshot, encoder_of("a"), LoaderConfig(batch_rows=6, lanes=2), rank=rank, world_size=3).epoch(
            0
        )
        for rank in range(3)
    ]
    found = np.concatenate([batch.labels_N for batch in itertools.chain(*rows)])
    assert len(set(found.tolist())) == len(found) == 30


def test_ten_thousand_tiny_files(tmp_path, monkeypatch):
    table = pa.table({"a": np.zeros(3, np.float32), "row": np.zeros(3, np.int64)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    data = sink.getvalue().to_pybytes()
    for number in range(10_000):
        path = tmp_path / f"d{number % 10}" / f"{number}.parquet"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    snapshot = take_snapshot(tmp_path, stored="beside")
    assert (snapshot.rows, snapshot.groups) == (30_000, 10_000)
    parsed = []
    parse = listing._parse_footer
    monkeypatch.setattr(listing, "_parse_footer", lambda found: parsed.append(found) or parse(found))
    (tmp_path / "d0" / "new.parquet").write_bytes(data)
    assert take_snapshot(tmp_path, stored="beside").groups == 10_001
    assert len(parsed) <= 2  # the new one, and one for the schema; the others were stored
    loader = Loader(snapshot, encoder_of("a"), LoaderConfig(batch_rows=1024, lanes=2, window=64))
    assert sum(len(batch) for batch in loader.epoch(0)) == 30_000


def test_memory_of_one_big_row_group_stays_within_the_stated_bound(tmp_path):
    """One file of 2 GB in one row group: it is decoded once, into one buffer, some columns at a time."""
    rows, names = 10_000_000, [f"f{i:02d}" for i in range(50)]
    rng = np.random.default_rng(0)
    column = rng.integers(0, 100, rows).astype(np.float32)
    pq.write_table(
        pa.table({**dict.fromkeys(names, column), "row": np.arange(rows)}), tmp_path / "a.parquet",
        row_group_size=rows, use_dictionary=False, compression="none",
    )  # fmt: skip
    assert (tmp_path / "a.parquet").stat().st_size > 2e9
    code = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}
from test_loader_faults import *
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
encoder = encoder_of(*{names!r})
snapshot = take_snapshot({str(tmp_path)!r})
assert snapshot.groups == 1
before = peak()
rows = sum(len(batch) for batch in Loader(snapshot, encoder, LoaderConfig(batch_rows=8192)).epoch(0))
assert rows == {rows}
print((peak() - before) / ({rows} * (encoder.row_bytes + 4)))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    (tmp_path / "a.parquet").unlink()
    assert float(done.stdout) < 1.5  # row groups; the bound for one is prefetch 0 + window 1 + 1


WORKER = """
import json, sys, time
sys.path[:0] = {path!r}
from test_loader_faults import *
from dataclasses import asdict
rank, world, step, output = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
loader = Loader(take_snapshot({lake!r}), encoder_of("a"), CONFIG, rank=rank, world_size=world)
with open(output, "w") as log:
    for batch in loader.epoch(1, from_step=step):
        rows = batch.labels_N.astype(int).tolist()
        print(json.dumps([asdict(loader.state(1, batch.step + 1)), rows]), file=log, flush=True)
        time.sleep({pause})
"""
CONFIG = LoaderConfig(lanes=6, batch_rows=60, window=2, seed=5)


def run_workers(lake: Path, world: int, step: int, out: Path, pause: float = 0.0) -> list[subprocess.Popen]:
    code = WORKER.format(path=[str(Path(__file__).parent), *sys.path], lake=str(lake), pause=pause)
    return [
        subprocess.Popen([sys.executable, "-c", code, str(rank), str(world), str(step), str(out / f"{rank}")])
        for rank in range(world)
    ]


def logged(out: Path, rank: int) -> list[tuple[dict, list[int]]]:
    lines = (out / f"{rank}").read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_killed_and_resumed_on_other_workers_every_row_is_read_once(lake, tmp_path, workers):
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    first = run_workers(lake, 2, 0, before, pause=0.05)
    deadline = time.monotonic() + 60
    while not all((before / f"{rank}").exists() and len(logged(before, rank)) >= 8 for rank in range(2)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first[1].send_signal(signal.SIGKILL)
    first[0].send_signal(signal.SIGKILL)
    assert [process.wait() for process in first] == [-9, -9]
    # a checkpoint stands where every rank has been; what came after it is lost with the crash
    state, _ = min((logged(before, rank)[-1] for rank in range(2)), key=lambda entry: entry[0]["step"])
    kept = [rows for rank in range(2) for at, rows in logged(before, rank) if at["step"] <= state["step"]]
    second = run_workers(lake, workers, state["step"], after)
    assert [process.wait(timeout=60) for process in second] == [0] * workers
    resumed = [logged(after, rank) for rank in range(workers)]
    assert len({len(entries) for entries in resumed}) == 1
    rest = [rows for entries in resumed for _, rows in entries]
    assert sorted(itertools.chain(*kept, *rest)) == list(range(4 * ROWS))
