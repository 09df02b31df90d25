"""The Parquet loader beside pyarrow's own scan and its peers, in paired rounds of one run.

    PYTHONPATH=platform python benchmarks/loader.py [--rounds 5] [--skip ray,hf] [--data DIR]

4,000,000 rows of 28 float32 features and a label in 16 files, row groups of 50,000, zstd, page cache
warm, batches of 8,192. Contenders take turns within a round; ratios are taken within rounds and
their median is reported, because absolute figures drift with the machine. Prints a table, and one
JSON line last.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import loader_data as lake
import loader_peers as peers
import loader_scale as scale

BATCH_ROWS = 8192


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--skip", default="", help="comma-separated: ray, hf")
    options.add_argument("--data", default=None, help="keep the data here between runs")
    options.add_argument("--rows-per-file", type=int, default=250_000)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="raymill-bench-") as scratch:
        root = Path(given.data or scratch) / "wide"
        lake.generate(root, rows_per_file=given.rows_per_file)
        print(json.dumps(run(root, given.rounds, set(given.skip.split(",")))))


def run(root: Path, rounds: int, skip: set[str]) -> dict[str, object]:
    """Return the figures of the closing JSON line; prints tables on the way."""
    snapshot, encoder = lake.open_lake(root)
    single = {
        "pyarrow scan": lambda: peers.scan(root),
        "raymill, shuffled": lambda: lake.read(snapshot, encoder),
        "raymill, file order": lambda: lake.read(snapshot, encoder, shuffle=False),
        "naive: stack + randperm in the batch": lambda: peers.naive(root, BATCH_ROWS),
        "in-memory tensor, permuted": peers.InMemory(root, BATCH_ROWS),
    }
    processor: dict[str, list[float]] = {name: [] for name in single}
    rates = paired("one process", single, snapshot.rows, rounds, processor)
    figures: dict[str, object] = {"rows": snapshot.rows, "rounds": rounds}
    figures["vs_scan"] = ratio(rates, "raymill, shuffled", "pyarrow scan")
    figures["vs_scan_cpu"] = ratio(processor, "pyarrow scan", "raymill, shuffled")
    print(f"processor time, scan / raymill shuffled: {figures['vs_scan_cpu']}", flush=True)
    two = paired("two processes", peers.two_processes(root), snapshot.rows, rounds)
    figures["vs_scan_2proc"] = ratio(two, "raymill, 2 ranks", "pyarrow scan, 2 halves")
    figures |= samples(snapshot, encoder, rounds)
    figures |= others(root, snapshot, skip)
    figures |= scale.memory(root)
    figures |= scale.growth(root, rounds)
    figures |= scale.million_row_groups()
    figures |= scale.shuffle_quality()
    figures["state_bytes"] = scale.state_bytes(snapshot, encoder)
    return figures


def paired(
    title: str,
    contenders: dict[str, Callable[[], float | int]],
    rows: int,
    rounds: int,
    processor: dict[str, list[float]] | None = None,
) -> dict[str, list[float]]:
    """Return rows/s of each contender in each round, the first round, a warm-up, dropped.

    A contender returns the rows it delivered, or the seconds it measured itself as a float.
    `processor` takes the processor seconds of each, which other work on the machine disturbs less.
    """
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(rounds + 1):
        for name, contender in contenders.items():
            gc.collect()
            started, spent = time.perf_counter(), time.process_time()
            result = contender()
            seconds = result if isinstance(result, float) else time.perf_counter() - started
            if not isinstance(result, float) and result != rows:
                sys.exit(f"{name} delivered {result} rows of {rows}")
            if round_number:
                rates[name].append(rows / seconds)
            if round_number and processor is not None:
                processor[name].append(time.process_time() - spent)
    first = next(iter(contenders))
    print(f"\n{title}, {rounds} rounds | rows/s, median | against {first}, median (range)\n---|---|---")
    for name, found in rates.items():
        ratios = sorted(mine / base for mine, base in zip(found, rates[first], strict=True))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"{name} | {statistics.median(found) / 1e6:.2f} M | {spread}", flush=True)
    return rates


def ratio(rates: dict[str, list[float]], mine: str, base: str) -> float:
    return round(statistics.median(a / b for a, b in zip(rates[mine], rates[base], strict=True)), 3)


def samples(snapshot, encoder, rounds: int) -> dict[str, object]:
    """Return what samples of row groups cost, in time and in bytes, as shares of a full pass."""
    costs: dict[str, list[float]] = {"sample_10": [], "sample_1": []}
    for _ in range(rounds):
        full = timed(lambda: lake.read(snapshot, encoder))
        for name, fraction in (("sample_10", 0.1), ("sample_1", 0.01)):
            # ten samples and a hundred: what they cost together, divided, is what one costs
            repeats = range(round(0.2 / fraction))
            spent = timed(
                lambda fraction=fraction, repeats=repeats: [
                    lake.read(snapshot, encoder, fraction=fraction, epoch=epoch) for epoch in repeats
                ]
            )
            costs[name].append(spent / len(repeats) / full)
    found: dict[str, object] = {name: round(statistics.median(values), 4) for name, values in costs.items()}
    for name, fraction in (("sample_10", 0.1), ("sample_1", 0.01)):
        groups_K = lake.groups_of(snapshot, encoder, fraction)
        share = lake.stored_bytes(snapshot, groups_K) / lake.stored_bytes(snapshot, range(snapshot.groups))
        found[f"{name}_bytes"] = round(share, 4)
    print("\nsample of row groups | share of a full pass: time | bytes\n---|---|---")
    for name in ("sample_10", "sample_1"):
        print(f"{name} | {found[name]} | {found[name + '_bytes']}", flush=True)
    return found


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def others(root: Path, snapshot, skip: set[str]) -> dict[str, object]:
    """Return the ratios to peers that run in a process or an environment of their own."""
    found: dict[str, object] = {}
    for name, key, measure in (
        ("Ray Data, local shuffle buffer 65,536", "ray_data", partial(peers.ray_data, buffer_rows=65_536)),
        ("Ray Data, in order", "ray_data_in_order", peers.ray_data),
        ("Hugging Face datasets, arrow streaming + stack", "hf_datasets", peers.hf_datasets),
        ("torch DataLoader over a TensorDataset, shuffled", "data_loader", peers.data_loader),
    ):
        if key.partition("_")[0] in skip:
            continue
        theirs, ours = [], []
        for rate in measure(root, BATCH_ROWS):
            theirs.append(rate)
            encoder = lake.encoder_of()
            ours.append(snapshot.rows / timed(lambda encoder=encoder: lake.read(snapshot, encoder)))
        found[f"vs_{key}"] = ratio({"a": ours, "b": theirs}, "a", "b")
        print(
            f"\n{name}: {statistics.median(theirs) / 1e6:.2f} M rows/s; raymill {found[f'vs_{key}']} times",
            flush=True,
        )
    return found


if __name__ == "__main__":
    main()
