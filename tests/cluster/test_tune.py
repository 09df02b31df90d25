"""Studies on a real cluster: staged to a published model, and killed and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, Cluster, closing_line, running
from test_examples import check_golden

from raymill.config import load
from raymill.search.record import Record
from raymill.search.study import Study
from raymill.tune.run import tune
from raymill.tune.spec import TuneSpec

TUNE = ("jobs/tune.py", "--config", "examples/flights/tune.yaml")
DEPTH, ROUNDS = "flavors.xgboost.max_depth", "flavors.xgboost.rounds"
RATE = "flavors.xgboost.learning_rate"
METHOD = "flavors.xgboost.params.tree_method"
SPACE = (
    f"{{parameters: {{{DEPTH}: {{type: int, low: 2, high: 4, default: 2}}, "
    f"{METHOD}: {{type: categorical, values: [hist, nonsense], default: hist}}}}}}"
)
DEPTHS = f"{{parameters: {{{DEPTH}: {{type: int, low: 3, high: 10}}}}}}"


def training(model: str, rounds: int, workers: int = 1) -> str:
    return f"{{flavor: xgboost, model: {model}, workers: {workers}, {ROUNDS}: {rounds}}}"


def settings(**values: str) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]


def read(cluster: Cluster, study: str) -> Record:
    return Study.read(str(cluster.storage / "studies" / study))


def test_a_staged_study_ends_in_a_published_model_though_trials_fail(
    joined: Cluster, flights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    cluster = joined
    stages = (
        f"[{{searcher: grid, options: {{values: {{{METHOD}: [nonsense, hist]}}}}}}, {{searcher: random}}]"
    )
    changes = settings(
        study="staged", space=SPACE, search__stages=stages, search__trials="4",
        train__set=training("tuned", rounds=8),
    )  # fmt: skip
    code, output = cluster.submit(*TUNE, *changes)
    assert code == 0, output
    result, record = closing_line(output), read(cluster, "staged")
    first, second = record.trials[:2]
    assert (first.status, second.status) == ("failed", "complete")
    assert "XGBoostError" in first.error
    assert "trial 1 grid: max_depth=2, tree_method=hist -> validation_auc" in output
    assert [trial.stage for trial in record.trials] == [0, 0, 1, 1]
    best = record.best()
    assert best is not None
    assert result["best"]["params"] == best.params
    published = result["published"]
    assert published["train_rows"] == 244_737
    assert published["metrics"]["validation"]["auc"] == pytest.approx(
        best.metrics["validation_auc"], abs=1e-6
    )
    assert 0.6 < published["metrics"]["test"]["auc"] < 0.72
    shown = cluster.run("raymill", "models", "show", "tuned")
    assert f'"study": "staged/{best.number}"' in shown.stdout
    assert (cluster.storage / "studies/staged/report/report.html").exists()
    again = tune(load(TuneSpec, ROOT / TUNE[2], [part for part in changes if part != "--set"]))
    assert (again["published"]["version"], again["published"]["published"]) == (published["version"], False)


def test_the_best_network_of_a_study_is_served(cluster: Cluster, flights: Path) -> None:
    """Two trials of two workers each, Bayesian search and ASHA, and the version answers as it was proven."""
    changes = settings(
        study="networks", search__trials="2",
        train__set="{flavor: torch, model: searched, workers: 2, flavors.torch.epochs: 2}",
        train__trials="{read.order: sampled, read.options: {fraction: 0.05}, checkpoint.every_steps: null}",
    )  # fmt: skip
    code, output = cluster.submit("jobs/tune.py", "--config", "examples/flights/tune-torch.yaml", *changes)
    assert code == 0, output
    record, published = read(cluster, "networks"), closing_line(output)["published"]
    assert {trial.status for trial in record.trials} <= {"complete", "stopped"}
    best = record.best()
    assert best is not None
    lineage = json.loads((Path(published["path"]) / "manifest.json").read_text())["lineage"]
    assert lineage["study"] == f"networks/{best.number}"
    changes = settings(
        models="{searched: {serve: [latest]}}", port=str(cluster.serve_port), grpc_port=str(cluster.grpc_port)
    )
    code, output = cluster.submit("jobs/serve.py", "--config", "examples/flights/serve.yaml", *changes)
    assert code == 0, output
    check_golden(closing_line(output)["url"], "searched", Path(published["path"]))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_trial_that_falls_behind_is_stopped_early(
    joined: Cluster, flights: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    study = f"asha-{workers}"
    monkeypatch.chdir(ROOT)
    rates = f"{{{RATE}: [0.1, 0.0001, 0.0002]}}"
    changes = settings(
        study=study, search__concurrency="1", retrain="false", train__set=training("none", 20, workers),
        space=f"{{parameters: {{{RATE}: {{type: float, low: 0.0001, high: 0.3}}}}}}",
        search__stages=f"[{{searcher: grid, options: {{values: {rates}}}}}]",
        search__scheduler="{name: asha, options: {grace_period: 4, reduction_factor: 2}, every_rounds: 4}",
    )  # fmt: skip
    result = tune(load(TuneSpec, ROOT / TUNE[2], [part for part in changes if part != "--set"]))
    assert result["trials"] == {"complete": 1, "stopped": 2, "failed": 0, "running": 0}
    first, *others = read(joined, study).trials
    assert [step for step, _ in first.reports] == [4, 8, 12, 16, 20]
    assert [trial.status for trial in others] == ["stopped"] * 2
    assert all(trial.metrics["round"] < 20 for trial in others)
    wait_until(lambda: not held_nodes())


def held_nodes() -> list[str]:
    """Return the placement groups that hold resources."""
    import ray

    groups = ray.util.placement_group_table().values()
    return [group["placement_group_id"] for group in groups if group["state"] == "CREATED"]


def test_a_killed_driver_is_gone_on_with_no_trial_lost_or_run_twice(cluster: Cluster, flights: Path) -> None:
    command = five_trials("killed")
    driver = drive(cluster, command)
    wait_until(lambda: kill_a_trial(cluster))  # which is run again, and fails nothing
    wait_until(lambda: told(cluster, "killed") >= 2)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = read(cluster, "killed")
    go_on(cluster, command)
    check_gone_on(before, read(cluster, "killed"))


def test_a_study_outlives_the_head(cluster: Cluster, flights: Path, tmp_path: Path) -> None:
    command = five_trials("headless")
    with running(tmp_path / "first", cluster.storage) as first:
        driver = drive(first, command)
        wait_until(lambda: told(first, "headless") >= 2)
        head = psutil.Process(json.loads((first.home / "cluster.json").read_text())["pid"])
        for process in [head, *head.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        driver.kill()  # it may wait for the head to come back
        driver.wait()
    before = read(cluster, "headless")
    with running(tmp_path / "second", cluster.storage) as second:
        go_on(second, command)
    check_gone_on(before, read(cluster, "headless"))


def five_trials(study: str) -> list[str]:
    return [
        sys.executable, *TUNE, *settings(
            study=study, search__trials="5", search__concurrency="1", retrain="false",
            search__stages="[{searcher: random}]", space=DEPTHS,
            train__set=training("unpublished", rounds=60),
        ),
    ]  # fmt: skip


def drive(cluster: Cluster, command: list[str]) -> subprocess.Popen[bytes]:
    environment = cluster.environment | {"RAY_ADDRESS": cluster.ray_address}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def go_on(cluster: Cluster, command: list[str]) -> None:
    environment = cluster.environment | {"RAY_ADDRESS": cluster.ray_address}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


def check_gone_on(before: Record, after: Record) -> None:
    """No trial was lost or run twice, and what was suggested is what nobody's death would have changed."""
    assert 2 <= len([trial for trial in before.trials if trial.ended]) < 5
    assert after.counts()["complete"] == 5
    asked = [(trial.number, trial.params) for trial in after.trials]
    assert asked[: len(before.trials)] == [(trial.number, trial.params) for trial in before.trials]
    ended = {trial.number: trial.metrics for trial in before.trials if trial.ended}
    assert ended.items() <= {trial.number: trial.metrics for trial in after.trials}.items()
    again = Study(after.header)  # what a driver that nobody kills asks for
    for trial in after.trials:
        assert again.ask() is not None
        again.tell(trial.number, trial.metrics)
    assert [trial.params for trial in again.record.trials] == [trial.params for trial in after.trials]


def kill_a_trial(cluster: Cluster) -> bool:
    """Kill -9 the process of a trial that runs on this cluster; return whether there was one."""
    temp_dir = json.loads((cluster.home / "cluster.json").read_text())["temp_dir"]
    for process in psutil.process_iter(["cmdline", "ppid"]):
        if "ImplicitFunc.train" in " ".join(process.info["cmdline"] or []):
            with suppress(psutil.Error):  # ended while we looked
                if temp_dir in " ".join(psutil.Process(process.info["ppid"]).cmdline()):
                    process.kill()
                    return True
    return False


def told(cluster: Cluster, study: str) -> int:
    logs = (cluster.storage / "studies" / study).glob("log/*.jsonl")
    return sum(file.read_text().count('"event": "tell"') for file in logs)


def wait_until(condition, seconds: float = 120) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
