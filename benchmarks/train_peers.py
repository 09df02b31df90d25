"""What raymill's training is measured against; each ends with one line of JSON.

torchrun ... train_peers.py torchrun DATA BATCH EPOCHS   bare DistributedDataParallel, rows in memory
train_peers.py bare FILE                                 a bare TorchTrainer; writes when it stepped first
train_peers.py plain DATA ROUNDS                         xgboost.train in one process, two threads
train_peers.py ray_train DATA ROUNDS                     Ray Train's XGBoostTrainer, two workers
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

WORKERS, TREES = 2, {"objective": "binary:logistic", "tree_method": "hist", "max_depth": 6, "eta": 0.1}
TREES |= {"lambda": 1.0, "min_child_weight": 1.0, "seed": 0}


def read(folder: str, rank: int = 0, world: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 [rows, 28] and labels of every `world`-th row group of a folder."""
    tables = []
    for file in sorted(Path(folder).glob("*.parquet")):
        opened = pq.ParquetFile(file)
        tables += [(opened, group) for group in range(opened.num_row_groups)]
    parts = [opened.read_row_group(group) for opened, group in tables[rank::world]]
    columns = [
        np.concatenate([part.column(name).to_numpy() for part in parts]) for name in parts[0].column_names
    ]
    return np.ascontiguousarray(np.stack(columns[:-1], axis=1)), columns[-1]


def network() -> Any:
    from torch import nn

    return nn.Sequential(nn.Linear(28, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1))


def torchrun(data: str, batch_rows: str, epochs: str) -> None:
    """Train and print rows/s of all workers in each epoch."""
    import torch
    import torch.distributed as dist
    from torch.nn.functional import binary_cross_entropy_with_logits
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    x, y = (torch.from_numpy(part) for part in read(f"{data}/train", rank, world))
    torch.manual_seed(0)
    model = DistributedDataParallel(network())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    mine, rates = int(batch_rows) // world, []
    for _ in range(int(epochs)):
        dist.barrier()
        started = time.perf_counter()
        order = torch.randperm(len(x))
        for start in range(0, len(x), mine):
            rows = order[start : start + mine]
            optimizer.zero_grad(set_to_none=True)
            loss = binary_cross_entropy_with_logits(model(x[rows]).flatten(), y[rows])
            loss.backward()
            optimizer.step()
            float(loss.detach())
        dist.barrier()
        rates.append(world * len(x) / (time.perf_counter() - started))
    if rank == 0:
        print(json.dumps({"rates": rates}))
    dist.destroy_process_group()


def bare(file: str) -> None:
    """Train a bare TorchTrainer for a few steps on random rows; write the time after its first step."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer, prepare_model

    def work() -> None:
        import torch

        model = prepare_model(network())
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        x, y = torch.randn(1024, 28), torch.rand(1024)
        for step in range(3):
            optimizer.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(model(x).flatten(), y).backward()
            optimizer.step()
            if step == 0 and ray.train.get_context().get_world_rank() == 0:
                Path(file).write_text(str(time.time()))

    ray.init()
    TorchTrainer(
        work,
        scaling_config=ScalingConfig(num_workers=WORKERS),
        run_config=RunConfig(name=Path(file).name, storage_path=str(Path(file).parent / "bare")),
    ).fit()


def plain(data: str, rounds: str) -> None:
    import xgboost

    started = time.perf_counter()
    matrix = xgboost.DMatrix(*read(f"{data}/train"))
    boosting = time.perf_counter()
    booster = xgboost.train({**TREES, "nthread": WORKERS}, matrix, int(rounds))
    _tell(booster, data, rounds, matrix.num_row(), time.perf_counter() - boosting, started)


def ray_train(data: str, rounds: str) -> None:
    import ray
    from ray.train import Checkpoint, RunConfig, ScalingConfig
    from ray.train.xgboost import XGBoostTrainer

    def work() -> None:
        import tempfile

        import xgboost

        context = ray.train.get_context()
        matrix = xgboost.DMatrix(*read(f"{data}/train", context.get_world_rank(), WORKERS))
        boosting = time.perf_counter()
        booster = xgboost.train({**TREES, "nthread": 1}, matrix, int(rounds), evals=[(matrix, "train")],
                                verbose_eval=False)  # fmt: skip
        seconds = time.perf_counter() - boosting
        with tempfile.TemporaryDirectory() as folder:
            booster.save_model(Path(folder) / "model.ubj")
            mine = context.get_world_rank() == 0
            ray.train.report(
                {"seconds": seconds, "rows": matrix.num_row()},
                checkpoint=Checkpoint.from_directory(folder) if mine else None,
            )

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")  # as ours has it
    ray.init(address="local", num_cpus=WORKERS + 1, include_dashboard=False, log_to_driver=False)
    started = time.perf_counter()
    result = XGBoostTrainer(
        work,
        scaling_config=ScalingConfig(num_workers=WORKERS),
        run_config=RunConfig(storage_path=f"{data}/ray_train"),
    ).fit()
    import xgboost

    with result.checkpoint.as_directory() as folder:
        booster = xgboost.Booster(model_file=Path(folder) / "model.ubj")
    rows = sum(pq.read_metadata(file).num_rows for file in Path(data).glob("train/*.parquet"))
    _tell(booster, data, rounds, rows, result.metrics["seconds"], started)


def _tell(booster: Any, data: str, rounds: str, rows: int, seconds: float, started: float) -> None:
    """Print rows/s while boosting, seconds from Parquet to booster, and AUC on the validation rows."""
    whole = time.perf_counter() - started
    x, y = read(f"{data}/validation")
    scores = booster.inplace_predict(x)
    ranks = np.argsort(np.argsort(scores)) + 1.0
    ones = y.sum()
    auc = (ranks[y == 1].sum() - ones * (ones + 1) / 2) / (ones * (len(y) - ones))
    print(json.dumps({"rate": rows * int(rounds) / seconds, "seconds": whole, "auc": float(auc)}))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
