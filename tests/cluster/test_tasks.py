"""Every flavor on every kind of target, on one worker and on two, through to a served-ready version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Cluster

from raymill.flavors import FLAVORS
from raymill.repo import load_version
from raymill.train.run import train

ROWS = 3000
FLOOR = {"multiclass": ("accuracy", 0.8), "regression": ("rmse", 0.6)}


def dataset(folder: Path) -> Path:
    rng = np.random.default_rng(5)
    x_N, word_N = rng.normal(size=ROWS), rng.choice(["a", "b"], ROWS)
    signal_N = 2 * x_N + (word_N == "a")
    table = pa.table(
        {
            "x": pa.array(x_N, mask=rng.random(ROWS) < 0.05),
            "word": word_N,
            "multiclass": np.select([signal_N > 1, signal_N < -1], ["high", "low"], "middle"),
            "regression": signal_N,
        }
    )
    folder.mkdir()
    pq.write_table(table, folder / "part-0.parquet", row_group_size=250)
    return folder


@pytest.mark.parametrize(("task", "workers"), [("multiclass", 2), ("regression", 1)])
@pytest.mark.parametrize("flavor", list(FLAVORS))
def test_flavors_and_tasks(
    joined: Cluster, train_spec: Callable[..., Any], tmp_path: Path, flavor: str, task: str, workers: int
) -> None:
    path = dataset(tmp_path / "data")
    result = train(
        train_spec(
            f"model={flavor}-{task}", f"flavor={flavor}", f"task={task}", f"workers={workers}",
            f"data.train={path}", f"data.validation={path}", "data.test=null", f"data.target={task}",
            "data.features={x: {nulls: mean}, word: {}}", "read.batch_rows=64",
            "flavors={torch: {hidden: [32], epochs: 8, learning_rate: 0.01}, xgboost: {rounds: 30}}",
        )
    )  # fmt: skip
    metric, floor = FLOOR[task]
    found = result.version.manifest.metrics["validation"][metric]
    assert found > floor if metric == "accuracy" else found < floor
    (tmp_path / "loaded").mkdir()
    loaded = load_version(result.version, tmp_path / "loaded")
    scores = loaded.predict_columns({"x": [2.0, -2.0, None], "word": ["a", "b", "never seen"]})
    assert scores.shape == ((3, 3) if task == "multiclass" else (3,))
    if task == "multiclass":
        assert [loaded.encoder.classes[i] for i in scores[:2].argmax(axis=1)] == ["high", "low"]
    else:
        assert scores[:2] == pytest.approx([5.0, -4.0], abs=1.5)
