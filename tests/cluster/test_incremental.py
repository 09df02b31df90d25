"""`order: incremental`: the first run learns all, the next only what is new, and then there is nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Cluster

from raymill import config
from raymill.errors import Conflict
from raymill.repo import Repository
from raymill.runs import Runs
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


KILLED = """
import json, os, signal, sys
from raymill import cluster, config
from raymill.repo import Repository
from raymill.train import attempt, run
from raymill.train.spec import TrainSpec
def end(*arguments): os.kill(os.getpid(), signal.SIGKILL)
where, spec = sys.argv[1:]
setattr({"publish": Repository, "label": Repository, "finish": attempt}[where], where, end)
cluster.connect()
run.train(config.parse(TrainSpec, json.loads(spec)))
"""


@pytest.mark.parametrize(
    ("where", "became", "labelled"), [("publish", 1, 1), ("label", 2, 1), ("finish", 2, 2)]
)
def test_a_job_killed_while_it_publishes_leaves_no_row_out_and_learns_none_twice(
    joined: Cluster, tmp_path: Path, where: str, became: int, labelled: int
) -> None:
    """Kill -9 with the ledger staged, with the version there but not its label, and with both."""
    settings = {
        "model": f"killed-{where}", "strategy": "local", "workers": 1, "runs": str(tmp_path / "runs"),
        "read": {"order": "incremental", "batch_rows": 256},
    }  # fmt: skip
    for name in ("validation", "train"):
        write(tmp_path / name / "0.parquet", 0)
    first = train(spec(tmp_path, **settings))
    write(tmp_path / "train" / "1.parquet", 1)
    wanted = spec(tmp_path, **settings, run="second")

    job = wanted.model_dump_json(exclude_unset=True)
    done = subprocess.run(  # the environment of this process, which has joined the cluster
        [sys.executable, "-c", KILLED, where, job], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == -9, done.stdout + done.stderr
    repository = Repository(wanted.publish.repository)
    assert repository.versions(wanted.model)[-1] == became
    assert repository.labels(wanted.model) == {"stable": labelled}

    again = train(wanted)
    assert again.version.number == 2
    assert repository.versions(wanted.model) == [1, 2]
    assert repository.labels(wanted.model) == {"stable": 2}
    record = Runs(wanted.runs).record("second")
    assert (record.status, record.version, record.attempts > 1) == ("finished", 2, where != "finish")
    whole = [[4, GROUP_ROWS, 2 * GROUP_ROWS]]
    assert ledger_of(first) == {"0.parquet": whole}
    assert ledger_of(again) == {"0.parquet": whole, "1.parquet": whole}
