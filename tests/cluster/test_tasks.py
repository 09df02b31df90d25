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

from raymill.evaluation import auc
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


def by_segment(folder: Path) -> tuple[Path, float]:
    """Return a dataset whose row groups are sorted by segment, and what a mean of shards' AUCs would say."""
    rng = np.random.default_rng(6)
    segment_N = np.repeat([0.0, 1.0], ROWS // 2)  # the first half, and so one worker's share, is segment 0
    x_N = rng.normal(size=ROWS)
    late_N = x_N + 4 * segment_N + rng.normal(size=ROWS) > 2
    table = pa.table({"x": x_N, "segment": segment_N, "late": late_N})
    folder.mkdir()
    pq.write_table(table, folder / "part-0.parquet", row_group_size=ROWS // 2)
    signal_N = x_N + 4 * segment_N
    mean = float(np.mean([auc(signal_N[segment_N == value], late_N[segment_N == value]) for value in (0, 1)]))
    return folder, mean


@pytest.mark.parametrize("flavor", list(FLAVORS))
def test_metrics_while_training_are_those_of_the_whole_on_shards_sorted_by_segment(
    joined: Cluster, train_spec: Callable[..., Any], tmp_path: Path, flavor: str
) -> None:
    """The mean of two workers' AUCs is far off; early stopping watches the true one."""
    path, mean_of_shards = by_segment(tmp_path / "data")
    settings = "hidden: [16], epochs: 12, learning_rate: 0.01, early_stopping: {patience: 1, min_delta: 0.02}"
    boosting = "rounds: 60, measure_every: 2, max_depth: 3, early_stopping: {patience: 2, min_delta: 0.02}"
    gradients = ", ".join(f"{name}: {{{settings}}}" for name in FLAVORS if name != "xgboost")
    result = train(
        train_spec(
            f"model={flavor}-segments", f"flavor={flavor}", "workers=2",
            f"data.train={path}", f"data.validation={path}", "data.test=null",
            "data.features={x: {}, segment: {}}", "read.batch_rows=64",
            f"flavors={{{gradients}, xgboost: {{{boosting}}}}}",
        )
    )  # fmt: skip
    aucs = [entry["validation_auc"] for entry in result.history]
    published = result.version.manifest.metrics["validation"]["auc"]
    assert published > 0.9
    assert abs(published - mean_of_shards) > 0.02, "the test could not tell a mean from the whole"
    assert len(aucs) < (30 if flavor == "xgboost" else 12), "early stopping did not stop"
    kept = next(value for value in aucs if max(aucs) - value < 0.02)  # the best that counted
    assert published == pytest.approx(kept, abs=1e-6) or published == pytest.approx(max(aucs), abs=1e-6)
