"""A real Prometheus finds the cluster by Ray's own discovery file and sees a training run while it learns."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Cluster, free_port

from raymill.metrics import METRICS

WAIT_S = 90.0
pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus on this machine")


@pytest.fixture
def prometheus(cluster: Cluster, tmp_path: Path) -> Iterator[str]:
    """The address of a Prometheus of this test's own, which ends with it."""
    temp_dir = json.loads((cluster.home / "cluster.json").read_text())["temp_dir"]
    targets = [{"files": [f"{temp_dir}/prom_metrics_service_discovery.json"]}]
    settings = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "ray", "file_sd_configs": targets}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(settings))
    address = f"127.0.0.1:{free_port()}"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus", f"--config.file={tmp_path}/prometheus.yml",
                f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address={address}",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + WAIT_S
        while not is_ready(address):
            said = (tmp_path / "log").read_text()
            assert process.poll() is None, f"Prometheus ended:\n{said}"
            assert time.monotonic() < deadline, f"Prometheus is not ready:\n{said}"
            time.sleep(0.2)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def is_ready(address: str) -> bool:
    """Return whether Prometheus takes queries; until it listens and has read its log, it does not."""
    try:
        with urllib.request.urlopen(f"http://{address}/-/ready") as got:
            return bool(got.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def ask(prometheus: str, query: str) -> list[dict[str, Any]]:
    """Return the series of an instant query."""
    with urllib.request.urlopen(
        f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    ) as got:
        found: list[dict[str, Any]] = json.load(got)["data"]["result"]
    return found


@pytest.fixture
def learning(cluster: Cluster, flights: Path) -> Iterator[None]:
    """A submitted run that would go on for long, and is stopped after the test."""
    settings = ("model=watched", "run=watched", "workers=2", "flavors.torch.epochs=1000")
    overrides = [part for setting in settings for part in ("--set", setting)]
    submitted = cluster.run(
        "ray", "job", "submit", "--no-wait", "--submission-id=watched", "--working-dir=.", "--",
        "python", "jobs/train.py", "--config", "examples/flights/train.yaml", *overrides,
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    yield
    stopped = cluster.run("ray", "job", "stop", "watched")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr


def test_a_run_is_seen_while_it_learns(cluster: Cluster, learning: None, prometheus: str) -> None:
    found: dict[str, float] = {}
    deadline = time.monotonic() + WAIT_S
    while len(found) < len(METRICS):
        assert time.monotonic() < deadline, f"{found}\n{cluster.run('ray', 'job', 'logs', 'watched').stdout}"
        time.sleep(1)
        series = ask(prometheus, '{__name__=~"ray_raymill_train_.*",run="watched",model="watched"}')
        found = {one["metric"]["__name__"].removeprefix("ray_"): float(one["value"][1]) for one in series}
    assert found.keys() == {
        metric.name + ("_total" if metric.kind == "counter" else "") for metric in METRICS
    }
    assert found["raymill_train_workers"] == 2
    assert found["raymill_train_rows_total"] > 0
    assert 0.3 < found["raymill_train_loss"] < 0.8, "the log loss of flights"
