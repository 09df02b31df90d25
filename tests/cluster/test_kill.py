"""kill -9 of a training worker in the middle: the run ends with the same rows seen and the same model."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Cluster

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
