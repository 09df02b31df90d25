"""Golden: several workers give the loss curve of one with the same global batch, in every gradient flavor."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from raymill.flavors import FLAVORS

ROWS = 1_501  # odd, so that workers hold unequal shares of the last batch
RELATIVE = 1e-4
"""Of each epoch's loss. Sums in another order differ in the last bits of float32, which Adam's first steps
magnify; a lost or a doubled row moves losses by a hundred times this."""
GRADIENT_FLAVORS = [name for name in FLAVORS if name != "xgboost"]
OPTIONS = {
    "hidden": [16], "epochs": 4, "learning_rate": 0.01, "schedule": "cosine", "warmup": 0.1, "clip_norm": 0.5,
    "weight_decay": 0.01, "accumulate": 2,
}  # fmt: skip
WORKER = Path(__file__).parent / "worker.py"


def write_spec(folder: Path) -> Path:
    """Write rows sorted by segment, so that workers see unlike ones, and a spec for them."""
    rng = np.random.default_rng(9)
    x_N, segment_N = rng.normal(size=ROWS), np.repeat(["a", "b", "c"], ROWS)[::3]
    late_N = x_N + 3 * (segment_N == "a") + rng.normal(size=ROWS) > 0.5
    table = pa.table({"x": pa.array(x_N, mask=rng.random(ROWS) < 0.1), "word": segment_N, "late": late_N})
    pq.write_table(table, folder / "rows.parquet", row_group_size=130)
    document = {
        "model": "equal", "workers": 2, "seed": 4,
        "data": {"train": str(folder / "rows.parquet"), "validation": str(folder / "rows.parquet"),
                 "target": "late", "features": {"x": {"nulls": "mean"}, "word": None}},
        "read": {"batch_rows": 64, "lanes": 2, "shuffle": False},
        "flavors": dict.fromkeys(GRADIENT_FLAVORS, OPTIONS),
    }  # fmt: skip
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def free_ports(count: int) -> str:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ",".join(ports)


def run(flavor: str, spec: Path, size: int) -> list[dict[str, Any]]:
    """Train on `size` processes and return what each ended with."""
    ports, outs = free_ports(size), [spec.parent / f"{flavor}-{size}-{rank}.json" for rank in range(size)]
    ranks = [
        subprocess.Popen(
            [sys.executable, WORKER, flavor, spec, str(rank), ports, ",".join(map(str, outs))],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(size)
    ]  # fmt: skip
    try:
        said = [rank.communicate(timeout=150)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert all(rank.returncode == 0 for rank in ranks), "\n".join(said)
    return [json.loads(out.read_text()) for out in outs]


@pytest.mark.parametrize("flavor", GRADIENT_FLAVORS)
def test_two_workers_learn_what_one_does(tmp_path: Path, flavor: str) -> None:
    spec = write_spec(tmp_path)
    (one,), two = run(flavor, spec, 1), run(flavor, spec, 2)

    def curve(found: dict[str, Any]) -> list[list[float]]:
        return [[entry[key] for key in ("loss", "validation_auc", "validation_log_loss")] for entry in found]

    assert len(one["history"]) == OPTIONS["epochs"]
    assert one["history"][-1]["loss"] < one["history"][0]["loss"] - 0.05, "it must have learned something"
    np.testing.assert_allclose(curve(two[0]["history"]), curve(one["history"]), rtol=RELATIVE)
    for name, value in two[0]["weights"].items():
        np.testing.assert_array_equal(value, two[1]["weights"][name], err_msg="ranks hold unlike weights")
        np.testing.assert_allclose(value, one["weights"][name], atol=2e-3, err_msg=name)
