"""kill -9 in the middle, of a worker or of the job: the run ends with the same rows seen, the same model."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Cluster, closing_line

from raymill.flavors.xgboost_flavor import MODEL_FILE
from raymill.train.run import TrainResult, train

# Small steps make the epochs long enough to be killed in; dropout off leaves nothing random but the seed.
OVERRIDES = (
    "model=killed", "read.batch_rows=256", "checkpoint.every_steps=100",
    "flavors.torch={hidden: [32], epochs: 1}", "publish.label=null",
)  # fmt: skip


def test_a_killed_worker_costs_no_row(
    joined: Cluster, flights: Path, train_spec: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "60")
    whole = train(train_spec(*OVERRIDES, "run=undisturbed"))
    killed: list[int] = []
    killer = threading.Thread(
        target=_kill_after_checkpoint, args=(joined, joined.storage / "runs/disturbed", killed)
    )
    killer.start()
    disturbed = train(train_spec(*OVERRIDES, "run=disturbed"))
    killer.join(timeout=5)
    assert killed, "no worker was killed; the test proves nothing"
    assert disturbed.rows_seen == whole.rows_seen == 244_737
    assert _without_time(disturbed) == _without_time(whole)
    assert disturbed.version.manifest.metrics == whole.version.manifest.metrics


def test_a_worker_told_to_end_stores_a_checkpoint_first(
    joined: Cluster, flights: Path, train_spec: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM, as where a machine is taken back; inside the epoch no checkpoint was due."""
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "60")
    settings = (*OVERRIDES, "run=preempted", "checkpoint.every_steps=null", "read.batch_rows=64")
    run, told = joined.storage / "runs/preempted", threading.Event()

    def tell() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not told.is_set():
            if (run / "history.json").exists() and (workers := joined.workers()):  # it learns
                os.kill(workers[0], signal.SIGTERM)
                told.set()
            time.sleep(0.05)

    teller = threading.Thread(target=tell)
    teller.start()
    result = train(train_spec(*settings))
    teller.join()
    assert told.is_set(), "no worker was told to end; the test proves nothing"
    assert result.rows_seen == 244_737
    positions = [
        json.loads((checkpoint / "state.json").read_text())["loader"]
        for checkpoint in sorted(run.glob("checkpoint_*"))
        if checkpoint.is_dir()
    ]
    assert [position["epoch"] for position in positions] == [0, 1], "one for the signal, one at the end"
    assert positions[0]["step"] > 0


def _kill_after_checkpoint(cluster: Cluster, run: Path, killed: list[int]) -> None:
    """Wait for a checkpoint inside the first epoch, then kill -9 one worker."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if len(list(run.glob("checkpoint_*"))) >= 1:
            workers = cluster.workers()
            if workers:
                os.kill(workers[0], signal.SIGKILL)
                killed.append(workers[0])
                return
        time.sleep(0.05)


def _without_time(result: TrainResult) -> list[dict[str, float]]:
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in result.history]


def test_a_killed_job_boosts_on_from_its_last_stored_round(
    joined: Cluster, tmp_path: Path, train_spec: Callable[..., Any]
) -> None:
    """Rows are drawn anew each round, so a round done twice or another seed would make another model."""
    settings = boosting(tmp_path / "data")
    whole = train(train_spec(*settings, "run=boosted-whole"))
    run = joined.storage / "runs/boosted-killed"
    overrides = [part for setting in (*settings, "run=boosted-killed") for part in ("--set", setting)]
    line = ("jobs/train.py", "--config", "examples/flights/train.yaml", *overrides)
    with ThreadPoolExecutor(1) as pool:
        submitted = pool.submit(joined.submit, *line)
        _kill_when_stored(run / "boosting")
        code, output = submitted.result(timeout=120)
    assert code != 0, output
    assert not drivers(), "what a killed job had started must end with it"
    done = max(int(file.name) for file in (run / "boosting").iterdir() if file.name.isdigit())
    assert 0 < done < ROUNDS, "no rounds were left to do; the test proves nothing"
    code, output = joined.submit(*line)
    assert code == 0, output
    resumed = re.search(rf"resumed at round (\d+) of {ROUNDS}", output)
    assert resumed, output
    assert done <= int(resumed[1]) < ROUNDS
    result = closing_line(output)
    assert result["rows_seen"] == whole.rows_seen == ROUNDS * 1200
    assert result["history"] == whole.history
    assert (Path(result["path"]) / MODEL_FILE).read_bytes() == whole.version.location.local_path.joinpath(
        MODEL_FILE
    ).read_bytes()
    assert len(list((run / "boosting").iterdir())) == 2, "older ones are not kept"


ROUNDS = 600


def boosting(folder: Path) -> list[str]:
    """Write some rows and return the overrides of a run of seconds on them."""
    rng = np.random.default_rng(2)
    x_NF = rng.normal(size=(1200, 4))
    late_N = x_NF[:, 0] * x_NF[:, 1] + rng.normal(size=1200) > 0
    folder.mkdir()
    table = pa.table({f"x{i}": x_NF[:, i] for i in range(4)} | {"late": late_N})
    pq.write_table(table, folder / "part-0.parquet", row_group_size=300)
    return [
        "model=boosted", "flavor=xgboost", f"data.train={folder}", f"data.validation={folder}",
        "data.test=null", "data.features={x0: {}, x1: {}, x2: {}, x3: {}}", "publish.label=null",
        f"flavors.xgboost={{rounds: {ROUNDS}, max_depth: 2, subsample: 0.7}}",
    ]  # fmt: skip


def drivers() -> list[psutil.Process]:
    """Return the processes of the job that is killed here, its own children among them."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "run=boosted-killed" in line and "submit" not in line:
            found.append(process)
    return found


def _kill_when_stored(folder: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if folder.exists() and any(file.name.isdigit() for file in folder.iterdir()):
            for process in drivers():
                if process.ppid() not in [other.pid for other in drivers()]:
                    process.kill()
                    return
        time.sleep(0.05)
    raise AssertionError("no booster was stored in time")
