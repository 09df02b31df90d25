"""One run that loses everything it can lose: it grows, its cluster dies, nodes are killed and drained.

Every row of the data has a weight of its own in the network, moved by that row's steps and no other's.
So the weights of the published model say how often each row was learned from, whatever happened.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from conftest import ROOT, closing_line, free_port

ROWS, BATCH, EPOCHS, RATE = 800, 16, 4, 8.0
PAUSE = {"COUNTING_PAUSE_S": "0.2"}
WAIT_S = 60.0
DEATH = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
"""Ray gives up a silent node after these 3 s and not its own 15, which this test would only wait for."""
DRAIN = """
import sys
import time
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION
client, name = GcsClient(address=sys.argv[1]), sys.argv[2]
nodes = client.get_all_node_info()
node = next(id for id, info in nodes.items() if name in info.resources_total)
accepted, why = client.drain_node(
    node.hex(), DRAIN_NODE_REASON_PREEMPTION, "taken back", time.time_ns() // 1_000_000 + 20_000
)
sys.exit(0 if accepted else why)
"""


class Machine:
    """A node of its own, as `ray start --block` makes one; `kill` takes its power away."""

    def __init__(self, environment: dict[str, str], log: Path, *arguments: str) -> None:
        ray = str(Path(sys.executable).with_name("ray"))
        line = [
            ray, "start", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1",
            f"--dashboard-agent-listen-port={free_port()}", *arguments,
        ]  # fmt: skip
        with log.open("wb") as output:
            self._process = subprocess.Popen(line, env=environment, stdout=output, stderr=output)
        deadline = time.monotonic() + WAIT_S
        while "Ray runtime started" not in log.read_text():  # two that start at once take each other's ports
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        if self._process.poll() is not None:
            return
        for process in [*psutil.Process(self._process.pid).children(recursive=True), self._process]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait()


class Machines:
    """Machines of one cluster after another."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self._port = 0
        self._all: list[Machine] = []
        self._temp_dirs: list[str] = []
        self._jobs: list[Job] = []

    def head(self, cpus: int) -> str:
        """Start a cluster and return its address."""
        self._port = free_port()
        # Sockets below it must stay short, so not in the test's own folder.
        temp_dir = f"/tmp/raymill-elastic-{self._port}"
        self._temp_dirs.append(temp_dir)
        self._start(
            "--head", f"--port={self._port}", f"--num-cpus={cpus}", "--include-dashboard=false",
            f"--temp-dir={temp_dir}", f"--ray-client-server-port={free_port()}",
        )  # fmt: skip
        return f"127.0.0.1:{self._port}"

    def node(self, cpus: int, name: str = "other") -> Machine:
        resources = json.dumps({name: 1})
        return self._start(
            f"--address=127.0.0.1:{self._port}", f"--num-cpus={cpus}", f"--resources={resources}"
        )

    def job(self, spec: Path) -> Job:
        """Start a job on the cluster that was started last."""
        self._jobs.append(Job(spec, f"127.0.0.1:{self._port}", self._environment))
        return self._jobs[-1]

    def kill_all(self) -> None:
        """Take the power of everything, the machine that the job runs on included."""
        for machine in self._all:
            machine.kill()
        for job in self._jobs:
            job.process.kill()
            job.process.wait()

    def remove(self) -> None:
        for folder in self._temp_dirs:
            shutil.rmtree(folder, ignore_errors=True)

    def _start(self, *arguments: str) -> Machine:
        self._all.append(
            Machine(self._environment, self._folder / f"machine-{len(self._all)}.log", *arguments)
        )
        return self._all[-1]


@pytest.fixture
def environment() -> dict[str, str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = [str(ROOT / "platform"), str(ROOT / "tests" / "cluster")]
    return variables | PAUSE | DEATH | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": os.pathsep.join(path)}


@pytest.fixture
def machines(tmp_path: Path, environment: dict[str, str]) -> Iterator[Machines]:
    started = Machines(tmp_path, environment)
    yield started
    started.kill_all()
    started.remove()


def write_spec(folder: Path) -> Path:
    ids = np.arange(ROWS)
    table = pa.table({"id": ids, "late": ids % 2 == 0})
    (folder / "data").mkdir()
    pq.write_table(table, folder / "data" / "rows.parquet", row_group_size=50)
    document = {
        "model": "elastic", "run": "elastic", "runs": str(folder / "runs"), "workers": [1, 4],
        "resize_seconds": 3, "seed": 3,
        "data": {"train": str(folder / "data"), "validation": str(folder / "data"), "target": "late",
                 "features": {"id": {"kind": "categorical", "max_vocabulary": ROWS}}},
        "read": {"batch_rows": BATCH},
        "checkpoint": {"every_steps": 5},
        "flavors": {"torch": {"network": "counting_net:Counting", "epochs": EPOCHS, "optimizer": "sgd",
                              "learning_rate": RATE, "weight_decay": 0.0}},
        "publish": {"repository": str(folder / "models")},
    }  # fmt: skip
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


class Job:
    """`jobs/train.py` as a process of its own, and what it has printed."""

    def __init__(self, spec: Path, address: str, environment: dict[str, str]) -> None:
        self._file = spec.with_name(f"job-{time.time_ns()}.log")
        command = [sys.executable, "jobs/train.py", "--config", str(spec)]
        with self._file.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment | {"RAY_ADDRESS": address}, stdout=output, stderr=output
            )

    @property
    def log(self) -> str:
        return self._file.read_text()

    def until(self, happened: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not happened():
            assert self.process.poll() is None, f"the job ended before {what}:\n{self.log}"
            assert time.monotonic() < deadline, f"no {what} in {WAIT_S:g} s:\n{self.log}"
            time.sleep(0.1)

    def until_said(self, words: str) -> None:
        self.until(lambda: words in self.log, words)


def newest(runs: Path) -> str:
    return max((path.name for path in runs.glob("elastic/checkpoint_2*")), default="")


def learned_for(visits: int, label: int) -> float:
    """Return what so many steps make of a row's weight, in this network, with this rate."""
    weight = 0.0
    for _ in range(visits):
        weight -= RATE / BATCH * (1 / (1 + math.exp(-weight)) - label)
    return weight


def test_a_run_grows_shrinks_and_outlives_its_nodes_and_its_head(
    tmp_path: Path, machines: Machines, environment: dict[str, str]
) -> None:
    spec, runs = write_spec(tmp_path), tmp_path / "runs"

    def more(job: Job) -> None:
        before = newest(runs)
        job.until(lambda: newest(runs) > before, "another checkpoint")

    machines.head(cpus=1)
    job = machines.job(spec)
    more(job)
    machines.node(cpus=2)
    job.until_said("with 3 workers")
    more(job)
    machines.kill_all()

    address = machines.head(cpus=1)
    killed, drained = machines.node(cpus=1), machines.node(cpus=1, name="drained")
    job = machines.job(spec)
    job.until_said("with 3 workers")
    more(job)
    killed.kill()
    job.until_said("with 2 workers")
    more(job)
    subprocess.run([sys.executable, "-c", DRAIN, address, "drained"], env=environment, check=True)
    job.until_said("checkpoint stored")
    drained.kill()
    job.until_said("with 1 workers")
    assert job.process.wait(timeout=WAIT_S) == 0, job.log

    found = closing_line(job.log)
    assert found["rows_seen"] == ROWS * EPOCHS
    assert [entry["rows"] for entry in found["history"]] == [ROWS] * EPOCHS
    resumed = [int(rows.replace(",", "")) for rows in re.findall(r"workers: ([\d,]+) rows seen", job.log)]
    assert resumed == sorted(resumed)
    assert min(resumed) > 0, "a new head must not mean a new run"

    state = torch.load(runs / "elastic" / newest(runs) / "weights.pt", weights_only=True)
    weights_N = state["network"]["table.weight"].flatten().numpy()[1:]  # the first is of unknown ids
    once = sorted(learned_for(EPOCHS, label) for label in (0, 1))
    assert np.sort(weights_N) == pytest.approx(np.repeat(once, ROWS // 2), abs=1e-5)
    assert abs(learned_for(EPOCHS - 1, 1) - once[1]) > 0.01, "a row that was missed must show"
