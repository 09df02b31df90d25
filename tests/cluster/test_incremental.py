"""`order: incremental`: the first run learns all, the next only what is new, and then there is nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Cluster

from raymill import config
from raymill.errors import Conflict
from raymill.train.run import TrainResult, train
from raymill.train.spec import TrainSpec

ROWS, GROUP_ROWS = 1200, 300


def write(path: Path, number: int) -> None:
    rng = np.random.default_rng(number)
    x = rng.standard_normal((ROWS, 3)).astype(np.float32)
    table = pa.table(
        {
            "a": x[:, 0],
            "v": pa.FixedSizeListArray.from_arrays(pa.array(x[:, 1:].ravel()), 2),
            "at": pa.array((np.arange(ROWS) + number * ROWS).astype("datetime64[s]")),
            "y": x[:, 0] + x[:, 1] > 0,
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=GROUP_ROWS)


def spec(root: Path, **overrides: Any) -> TrainSpec:
    document = {
        "model": "grows", "workers": 2,
        "data": {
            "train": str(root / "train"), "validation": str(root / "validation"), "target": "y",
            "features": {"a": {}, "v": {}, "at": {}},
        },
        "read": {"order": "incremental", "batch_rows": 256, "options": {"replay": 0.25}},
        "flavors": {"torch": {"hidden": [8], "epochs": 2}},
    }  # fmt: skip
    return config.parse(TrainSpec, document | overrides)


def ledger_of(result: TrainResult) -> dict[str, list[list[int]]]:
    document = json.loads((result.version.location / "ledger.json").read_bytes())
    return {file["path"]: file["groups"] for file in document["files"]}


def test_only_new_files_are_learned(joined: Cluster, tmp_path: Path) -> None:
    write(tmp_path / "validation" / "0.parquet", 99)
    for number in range(2):
        write(tmp_path / "train" / f"{number}.parquet", number)
    first = train(spec(tmp_path))
    assert first.rows_seen == 2 * 2 * ROWS
    whole = [[4, GROUP_ROWS, 2 * GROUP_ROWS]]
    assert ledger_of(first) == {"0.parquet": whole, "1.parquet": whole}

    again = train(spec(tmp_path))
    assert (again.published, again.rows_seen) == (False, 0)
    assert again.version.number == first.version.number
    assert again.summary()["published"] is False

    write(tmp_path / "train" / "2.parquet", 2)
    second = train(spec(tmp_path))
    replayed = 2 * GROUP_ROWS  # a quarter of eight row groups, another quarter each epoch
    assert second.rows_seen == 2 * (ROWS + replayed)
    learned = ledger_of(second)
    assert learned["2.parquet"] == whole
    visits = sum(count * visits for groups in learned.values() for count, _, visits in groups)
    assert visits == first.rows_seen + second.rows_seen
    assert second.history[0]["loss"] < first.history[0]["loss"]  # it went on from where the first ended

    write(tmp_path / "train" / "0.parquet", 7)
    with pytest.raises(Conflict, match=r"1 files were rewritten.*'0\.parquet'"):
        train(spec(tmp_path))
    write(tmp_path / "train" / "3.parquet", 3)
    with pytest.raises(Conflict, match="the network of the spec is not that of the version"):
        train(
            spec(
                tmp_path,
                read={"order": "incremental", "options": {"rewritten": "learn"}},
                flavors={"torch": {"hidden": [9], "epochs": 1}},
            )
        )
