"""How the loader grows: memory, rows, row groups; and how well it mixes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import loader_data as lake
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymill.data import Loader, LoaderConfig, Snapshot, store, take_snapshot
from raymill.data.decode import Decoder
from raymill.data.full import FullOrder
from raymill.data.snapshot import Files
from raymill.features import Encoder
from raymill.storage import locate

MIB = 1 << 20


def resident_peak() -> int:
    """Return the largest resident size of this process so far, in bytes.

    Not getrusage's: that one starts at the parent's size.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def memory(root: Path) -> dict[str, object]:
    """Return the peak above the interpreter's own, in decoded row groups, measured in fresh processes.

    "Own" is the interpreter with all libraries imported and the decoding threads warmed up on one
    small file of 0.6 MB decoded. What Arrow's allocator and decompressors keep is some ten megabytes
    a thread: much beside row groups of 6 MB, little beside those of 29 MB.
    """
    found: dict[str, object] = {}
    print("\npeak memory above the interpreter's own | MiB | decoded row groups | bound\n---|---|---|---")
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        lake.generate(small, rows_per_file=5_000, files=1)
        lake.generate(large, files=12, group_rows=250_000)
        for name, lake_root, rows in (("", root, lake.GROUP_ROWS), ("_large", large, 250_000)):
            code = (
                f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import loader_scale as s; "
            )
            code += f"s.memory_child({str(lake_root)!r}, {str(small)!r}, {rows})"
            done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
            line = json.loads(done.stdout.splitlines()[-1])
            found |= {f"peak{name}_mib": line["mib"], f"peak_row_groups{name}": line["row_groups"]}
            found["bound_row_groups"] = line["bound"]
            print(
                f"row groups of {rows:,} rows, {line['group_mib']} MiB decoded | {line['mib']} | "
                f"{line['row_groups']} | {line['bound']} (prefetch + window + 1)",
                flush=True,
            )
    return found


def memory_child(root: str, small: str, group_rows: int) -> None:
    snapshot, encoder = lake.open_lake(Path(root))
    lake.read(*lake.open_lake(Path(small)))
    before = resident_peak()
    lake.read(snapshot, encoder)
    peak, config = resident_peak() - before, lake.config_of()
    group_bytes = group_rows * Decoder(snapshot, encoder).row_bytes
    found = {
        "mib": round(peak / MIB, 1),
        "group_mib": round(group_bytes / MIB, 1),
        "row_groups": round(peak / group_bytes, 2),
        "bound": 2 * config.window + 1,
    }
    print(json.dumps(found))


def growth(root: Path, rounds: int) -> dict[str, object]:
    """Return how flat rows/s stays over 1, 4 and 16 times the data, and the planning times."""
    rates: dict[int, list[float]] = {1: [], 4: [], 16: []}
    files = sorted(root.iterdir())
    with tempfile.TemporaryDirectory() as folder:
        lakes = {}
        for times in rates:
            part = Path(folder) / str(times)
            part.mkdir()
            for path in files[:times]:
                (part / path.name).symlink_to(path)
            lakes[times] = lake.open_lake(part)
        for round_number in range(rounds + 1):
            for times, (snapshot, encoder) in lakes.items():
                repeats = 16 // times  # each size reads as many rows in all
                started = time.perf_counter()
                rows = lake.read_epochs(snapshot, encoder, repeats)
                if round_number:
                    rates[times].append(rows / (time.perf_counter() - started))
    base = rates[1]
    ratios = {
        times: statistics.median(mine / one for mine, one in zip(found, base, strict=True))
        for times, found in rates.items()
    }
    flatness = round(max(ratios.values()) / min(ratios.values()) - 1, 3)
    print("\ndata | rows/s against 1 time the data\n---|---")
    for times, value in ratios.items():
        print(f"{times} times | {value:.2f}", flush=True)
    return {"flatness": flatness, "growth": {str(times): round(value, 3) for times, value in ratios.items()}}


def million_row_groups() -> dict[str, object]:
    """Return memory and planning time of row groups up to a million, from a stored snapshot."""
    found: dict[str, object] = {}
    print(
        "\nrow groups | stored MiB | load + plan an epoch, s | memory above the interpreter's own, MiB\n"
        "---|---|---|---"
    )
    for groups in (62_500, 250_000, 1_000_000):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "snapshot.arrow"
            store.save(synthetic(groups), locate(path))
            size = path.stat().st_size
            code = (
                f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import loader_scale as s; "
            )
            code += f"s.plan_child({str(path)!r})"
            done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        line = json.loads(done.stdout.splitlines()[-1])
        print(f"{groups:,} | {size / MIB:.0f} | {line['plan_s']:.2f} | {line['mib']:.0f}", flush=True)
        found[f"plan_{groups}_s"] = line["plan_s"]
        found[f"plan_{groups}_mib"] = line["mib"]
    return found


def synthetic(groups: int) -> Snapshot:
    """Return a snapshot of ten row groups a file, of files that are nowhere."""
    files = groups // 10
    paths = [f"day={number // 1000:03d}/part-{number:06d}.parquet" for number in range(files)]
    return Snapshot(
        root=locate("/nowhere"),
        files=Files(pa.array(paths, pa.large_string()), np.full(files, 10**8), np.arange(files)),
        schema=pa.schema({name: pa.float32() for name in [*lake.NAMES, "label"]}),
        group_file_G=np.repeat(np.arange(files, dtype=np.int32), 10),
        group_ordinal_G=np.tile(np.arange(10, dtype=np.int32), files),
        group_rows_G=np.full(groups, 50_000),
        group_bytes_G=np.full(groups, 6_000_000),
    )


def plan_child(path: str) -> None:
    from raymill.data.stream import Windows

    before, started = resident_peak(), time.perf_counter()
    snapshot = store.load(locate(path), locate("/nowhere"))
    loader = Loader(snapshot, lake.encoder_of(), lake.config_of(lanes=8), rank=3, world_size=8)
    steps = loader.steps(0)
    plan = FullOrder().plan(snapshot, seed=0, epoch=0)
    Windows(plan, plan.rows // 8 * 3, plan.rows // 8 * 4, 4).pieces(1000)
    loader.visits(0, steps // 2)
    found = {"plan_s": round(time.perf_counter() - started, 3), "mib": (resident_peak() - before) / MIB}
    print(json.dumps(found))


def shuffle_quality() -> dict[str, object]:
    """Return the spread of the label share per batch on data sorted by label, against a true permutation's.

    1 is a true permutation; a reader in file order has about sqrt(batch rows).
    """
    found: dict[str, object] = {}
    print("\ndata sorted by label: spread of the label share per batch, in true permutations'\n---|---")
    with tempfile.TemporaryDirectory() as folder:
        rows, files = 1_600_000, 16
        for number in range(files):
            label = (np.arange(rows // files) + number * rows // files >= rows // 2).astype(np.float32)
            table = pa.table({"x": label, "label": label})
            pq.write_table(table, Path(folder) / f"{number:02d}.parquet", row_group_size=5_000)
        snapshot, encoder = take_snapshot(folder), lake.encoder_of(["x"])
        for window in (1, 4, 16, 64):
            spread = label_spread(snapshot, encoder, window)
            found[f"drift_window_{window}"] = spread
            print(f"window of {window} row groups | {spread}", flush=True)
    return found


def label_spread(snapshot: Snapshot, encoder: Encoder, window: int) -> float:
    batch_rows = 1024
    loader = Loader(snapshot, encoder, LoaderConfig(batch_rows=batch_rows, window=window))
    shares = [batch.labels_N.mean() for epoch in range(2) for batch in loader.epoch(epoch)]
    return round(float(np.std(shares) / (0.5 / batch_rows**0.5)), 2)


def state_bytes(snapshot: Snapshot, encoder: Encoder) -> int:
    """Return the size of a run's position as JSON, with 16 lanes pulled on their own."""
    from dataclasses import asdict

    loader = Loader(snapshot, encoder, lake.config_of(lanes=16, fraction=0.1))
    return len(json.dumps(asdict(loader.state(3, 100, [100] * 16))).encode())
