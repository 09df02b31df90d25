"""Golden: two workers give the loss curve of one with the same global batch, in every gradient flavor."""

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

ROWS = 1_501  # odd, so that workers hold unequal shares of the last batch
RELATIVE = 1e-4
"""Of each epoch's loss. Sums in another order differ in the last bits of float32, which Adam's first steps
magnify; a lost or a doubled row moves losses by a hundred times this."""
GRADIENT_FLAVORS = [name for name in FLAVORS if name != "xgboost"]
OPTIONS = (
    "{hidden: [16], epochs: 4, learning_rate: 0.01, schedule: cosine, warmup: 0.1, clip_norm: 0.5, "
    "accumulate: 2, weight_decay: 0.01}"
)


def dataset(folder: Path) -> Path:
    rng = np.random.default_rng(9)
    x_N, word_N = rng.normal(size=ROWS), rng.choice(["a", "b", "c"], ROWS)
    table = pa.table(
        {
            "x": pa.array(x_N, mask=rng.random(ROWS) < 0.1),
            "word": word_N,
            "late": x_N + (word_N == "a") + rng.normal(size=ROWS) > 0.5,
        }
    )
    folder.mkdir()
    pq.write_table(table, folder / "part-0.parquet", row_group_size=130)
    return folder


@pytest.mark.parametrize("flavor", GRADIENT_FLAVORS)
def test_two_workers_learn_what_one_does(
    joined: Cluster, train_spec: Callable[..., Any], tmp_path: Path, flavor: str
) -> None:
    path = dataset(tmp_path / "data")
    results = [
        train(
            train_spec(
                f"model={flavor}-equal-{workers}", f"flavor={flavor}", f"workers={workers}",
                f"data.train={path}", f"data.validation={path}", "data.test=null",
                "data.features={x: {nulls: mean}, word: {}}", "read.batch_rows=64", "read.lanes=2",
                "checkpoint.every_steps=null", f"flavors.{flavor}={OPTIONS}",
            )
        )
        for workers in (1, 2)
    ]  # fmt: skip
    one, two = ([(e["loss"], e["validation_log_loss"]) for e in result.history] for result in results)
    assert len(one) == 4
    assert one[-1][0] < one[0][0] - 0.03, "it must have learned something"
    np.testing.assert_allclose(two, one, rtol=RELATIVE)
    scores = []
    for number, result in enumerate(results):
        (tmp_path / str(number)).mkdir()
        loaded = load_version(result.version, tmp_path / str(number))
        scores.append(loaded.predict_columns({"x": [0.3, None, -2.0], "word": ["a", "b", "new"]}))
    np.testing.assert_allclose(*scores, atol=1e-3)
