"""What the loader is measured against: pyarrow's scan, plain code, Ray Data, Hugging Face datasets."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path

import loader_data as lake
import numpy as np
import pyarrow.dataset as ds
import torch
from torch.utils.data import DataLoader, TensorDataset

ENVIRONMENTS = Path(__file__).parent / ".envs"
PASSES = 4  # of a peer in a process of its own; the first warms up
SLOW_ROWS = 300_000  # for a peer that takes half a minute for all


def scan(root: Path, files: slice = slice(None)) -> int:
    paths = [str(path) for path in sorted(root.iterdir())[files]]
    return sum(batch.num_rows for batch in ds.dataset(paths).to_batches())


def naive(root: Path, batch_rows: int) -> int:
    rows = 0
    for batch in ds.dataset(str(root)).to_batches(batch_size=batch_rows):
        columns = [batch.column(name).to_numpy() for name in lake.NAMES]
        features = torch.from_numpy(np.stack(columns, axis=1))
        labels = torch.from_numpy(np.array(batch.column("label")))
        order = torch.randperm(len(labels))
        rows += len(features[order]) and len(labels[order])
    return rows


class InMemory:
    """The limit for gathering alone: one tensor that holds everything, indexed by a permutation."""

    def __init__(self, root: Path, batch_rows: int) -> None:
        rows = ds.dataset(str(root)).count_rows()
        self.features = torch.rand(rows, lake.FEATURES)
        self.labels = torch.rand(rows)
        self.batch_rows = batch_rows

    def __call__(self) -> int:
        rows = 0
        order = torch.randperm(len(self.labels))
        for start in range(0, len(order), self.batch_rows):
            picked = order[start : start + self.batch_rows]
            rows += len(self.features[picked]) and len(self.labels[picked])
        return rows


def two_processes(root: Path) -> dict[str, Callable[[], float]]:
    """Return contenders of two worker processes each, started once; each call returns its seconds."""
    half = lake.FILES // 2
    scanners = Pair(_scan_half, [(str(root), 0, half), (str(root), half, None)])
    loaders = Pair(_load_rank, [(str(root), 0), (str(root), 1)])
    return {"pyarrow scan, 2 halves": scanners, "raymill, 2 ranks": loaders}


class Pair:
    """Two processes that do their part whenever they are called."""

    def __init__(self, work: Callable[..., Callable[[], None]], arguments: list[tuple]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes = []
        for given in arguments:
            ours, theirs = context.Pipe()
            context.Process(target=_serve, args=(theirs, work, given), daemon=True).start()
            self.pipes.append(ours)
        for pipe in self.pipes:
            pipe.recv()

    def __call__(self) -> float:
        started = time.perf_counter()
        for pipe in self.pipes:
            pipe.send("go")
        for pipe in self.pipes:
            pipe.recv()
        return time.perf_counter() - started


def _serve(pipe, work, given) -> None:
    job = work(*given)
    pipe.send("ready")
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        job()
        pipe.send("done")


def _scan_half(root: str, start: int, stop: int | None) -> Callable[[], None]:
    return lambda: scan(Path(root), slice(start, stop))


def _load_rank(root: str, rank: int) -> Callable[[], None]:
    from raymill.data import Loader

    snapshot, encoder = lake.open_lake(Path(root))

    def work() -> None:
        loader = Loader(snapshot, encoder, lake.config_of(lanes=2), rank=rank, world_size=2)
        for batch in loader.epoch(0):
            batch.as_torch()

    return work


RAY_DATA = """
import sys, time, logging
import ray
root, batch_rows, passes, buffer_rows = sys.argv[1], *map(int, sys.argv[2:5])
ray.init(address="local", num_cpus=2, logging_level=logging.ERROR, include_dashboard=False)
ray.data.DataContext.get_current().enable_progress_bars = False
data = ray.data.read_parquet(root)
for number in range(passes):
    sys.stdin.readline()
    started, rows, shuffle = time.perf_counter(), 0, {"local_shuffle_buffer_size": buffer_rows or None}
    for batch in data.iter_torch_batches(batch_size=batch_rows, **shuffle):
        rows += len(batch["label"])
    print("rate", rows / (time.perf_counter() - started), flush=True)
"""

HF_DATASETS = """
import sys, time
import numpy as np
from datasets import load_dataset
root, batch_rows, passes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for number in range(passes):
    sys.stdin.readline()
    data = load_dataset("parquet", data_files=root + "/*.parquet", split="train", streaming=True)
    started, rows = time.perf_counter(), 0
    for batch in data.with_format("arrow").iter(batch_size=batch_rows):
        names = [name for name in batch.column_names if name != "label"]
        features = np.stack([batch.column(name).to_numpy() for name in names], axis=1)
        rows += len(features)
    print("rate", rows / (time.perf_counter() - started), flush=True)
"""


def ray_data(root: Path, batch_rows: int, *, buffer_rows: int = 0):
    """Yield rows/s of each pass of Ray Data, in a process of its own; it waits between passes."""
    yield from _passes([sys.executable, "-c", RAY_DATA], root, batch_rows, buffer_rows)


def data_loader(root: Path, batch_rows: int):
    """Yield rows/s of torch's DataLoader over tensors in memory, which asks for each row by itself."""
    tensors = TensorDataset(torch.rand(SLOW_ROWS, lake.FEATURES), torch.rand(SLOW_ROWS))
    for _ in range(PASSES - 1):
        started = time.perf_counter()
        rows = sum(len(labels) for _, labels in DataLoader(tensors, batch_rows, shuffle=True))
        yield rows / (time.perf_counter() - started)


def hf_datasets(root: Path, batch_rows: int):
    """Yield rows/s of each pass of Hugging Face datasets, in an environment of its own."""
    home = ENVIRONMENTS / "hf"
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "datasets==4.4.1", "numpy"], check=True)
    yield from _passes([str(python), "-c", HF_DATASETS], root, batch_rows)


def _passes(command: list[str], root: Path, batch_rows: int, *more: int):
    process = subprocess.Popen(
        [*command, str(root), str(batch_rows), str(PASSES), *map(str, more)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        for number in range(PASSES):
            process.stdin.write("\n")
            process.stdin.flush()
            line = next((line for line in process.stdout if line.startswith("rate")), None)
            if line is None:
                sys.exit(f"peer ended early: {json.dumps(command[:2])}")
            if number:
                yield float(line.split()[1])
    finally:
        process.stdin.close()
        process.wait()
