"""Attempts at a run: begun anew, taken up, refused where the spec, the data or the job is another's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import toy

from raymill import cluster
from raymill.config import parse
from raymill.errors import Conflict
from raymill.repo import Repository
from raymill.runs import Runs
from raymill.storage import locate
from raymill.train import attempt
from raymill.train.spec import TrainSpec

SNAPSHOTS: Any = {"train": SimpleNamespace(id="t1"), "validation": SimpleNamespace(id="v1")}


@pytest.fixture
def jobs(monkeypatch: Any) -> dict[str, Any]:
    """The Ray jobs there are, and which of them is this one."""
    known: dict[str, Any] = {"me": "01", "alive": set()}
    monkeypatch.setattr(cluster, "this_job", lambda: {"session": "s", "job": known["me"]})
    monkeypatch.setattr(cluster, "is_running", lambda session, job: job in known["alive"])
    return known


def spec(tmp_path: Path, **changes: Any) -> TrainSpec:
    document = {
        "model": "toy", "run": "night", "runs": str(tmp_path / "runs"), "workers": 2,
        "data": {"train": "a", "validation": "b", "target": "y", "features": {"x": None}},
    }  # fmt: skip
    return parse(TrainSpec, document | changes)


def test_a_run_is_taken_up_under_its_name(tmp_path: Path, jobs: dict[str, Any]) -> None:
    first = attempt.begin(spec(tmp_path), "night", SNAPSHOTS)
    assert (first.status, first.attempts) == ("running", 1)
    jobs["me"] = "02"
    again = attempt.begin(spec(tmp_path), "night", SNAPSHOTS)
    assert (again.attempts, again.owner.job, again.started) == (2, "02", first.started)


def test_how_it_is_carried_out_may_change(tmp_path: Path, jobs: dict[str, Any]) -> None:
    attempt.begin(spec(tmp_path), "night", SNAPSHOTS)
    changed = spec(
        tmp_path, workers=[1, 4], read={"lanes": 2}, max_failures=9, checkpoint={"every_steps": 5, "keep": 1}
    )
    assert attempt.begin(changed, "night", SNAPSHOTS).attempts == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 7}, "seed: was 0, now 7"),
        ({"workers": 4}, "read.lanes: was 2, now 4"),
        ({"flavors": {"torch": {"epochs": 9}}}, "flavors.torch.epochs: was None, now 9"),
        ({"task": "regression"}, "task: was 'binary', now 'regression'"),
    ],
)
def test_another_spec_is_refused_key_by_key(
    tmp_path: Path, jobs: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    attempt.begin(spec(tmp_path), "night", SNAPSHOTS)
    with pytest.raises(Conflict) as caught:
        attempt.begin(spec(tmp_path, **changes), "night", SNAPSHOTS)
    assert words in str(caught.value)
    assert "choose another name for `run`" in str(caught.value)


def test_other_data_is_refused(tmp_path: Path, jobs: dict[str, Any]) -> None:
    attempt.begin(spec(tmp_path), "night", SNAPSHOTS)
    with pytest.raises(Conflict, match="begun on other train data"):
        attempt.begin(spec(tmp_path), "night", SNAPSHOTS | {"train": SimpleNamespace(id="t2")})


def test_a_run_of_a_job_that_lives_is_left_to_it(tmp_path: Path, jobs: dict[str, Any]) -> None:
    attempt.begin(spec(tmp_path), "night", SNAPSHOTS)
    jobs |= {"me": "02", "alive": {"01"}}
    with pytest.raises(Conflict, match="being worked on by job 01; wait for it"):
        attempt.begin(spec(tmp_path), "night", SNAPSHOTS)


def test_an_error_is_written_down_and_raised(tmp_path: Path, jobs: dict[str, Any]) -> None:
    record = attempt.begin(spec(tmp_path), "night", SNAPSHOTS)
    with pytest.raises(ValueError, match="no"), attempt.recorded(spec(tmp_path), record):
        raise ValueError("no\n  good")
    stored = Runs(str(tmp_path / "runs")).record("night")
    assert (stored.status, stored.error) == ("failed", "ValueError: no good")
    assert attempt.begin(spec(tmp_path), "night", SNAPSHOTS).error is None


def test_a_job_that_died_after_publishing_publishes_no_second_version(
    tmp_path: Path, jobs: dict[str, Any]
) -> None:
    repository = Repository(locate(tmp_path / "models"))
    record = attempt.begin(spec(tmp_path), "run-1", SNAPSHOTS)
    assert attempt.published(record, repository) is None
    toy.publish(repository, tmp_path / "staged")  # its lineage names run-1
    stale = Runs(str(tmp_path / "runs")).write(record, started="2026-01-01T00:00:00+00:00")
    again = attempt.begin(spec(tmp_path), "run-1", SNAPSHOTS)
    version = attempt.published(again, repository)
    assert version is not None
    assert version.number == 1
    attempt.finish(spec(tmp_path), again, version, [{"round": 1.0}])
    done = attempt.begin(spec(tmp_path), "run-1", SNAPSHOTS)
    assert (done.status, done.version, done.attempts) == ("finished", 1, 2)
    assert attempt.published(done, repository).number == 1
    assert Runs(str(tmp_path / "runs")).history("run-1").epochs == [{"round": 1.0}]
    assert stale.attempts == 1
