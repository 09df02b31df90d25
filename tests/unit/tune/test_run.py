"""A study's header: what a resumed one keeps, and what it starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raymill import cluster
from raymill.config import load
from raymill.errors import Conflict, DataError
from raymill.search.study import Study
from raymill.storage import Location, locate
from raymill.tune.plan import make_plan
from raymill.tune.run import _best, _clear, _header
from raymill.tune.spec import TuneSpec

ROOT = Path(__file__).resolve().parents[3]
SNAPSHOTS = {"train": "abc", "validation": "def"}


@pytest.fixture(autouse=True)
def _a_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("RAYMILL_STORAGE", str(tmp_path))
    monkeypatch.setattr(cluster, "ceiling", lambda: {"CPU": 3.0})


def begin(folder: Location, *overrides: str, snapshots: dict[str, str] = SNAPSHOTS) -> Study:
    settings = ["search.stages=[{searcher: random}]", *overrides]
    spec = load(TuneSpec, ROOT / "examples/flights/tune.yaml", settings)
    return Study.open_or_create(folder, _header(spec, make_plan(spec), folder, snapshots))


def run(study: Study, trials: int) -> Study:
    for _ in range(trials):
        trial = study.ask()
        assert trial is not None
        study.tell(
            trial.number, {"validation_auc": trial.params["flavors.xgboost.learning_rate"]}, seconds=1.0
        )
    study.close()
    return study


def test_a_study_gone_on_with_on_another_cluster_keeps_what_it_took_from_the_first(monkeypatch: Any) -> None:
    folder = locate("studies/one")
    first = run(begin(folder), 2)
    monkeypatch.setattr(cluster, "ceiling", lambda: {"CPU": 64.0})
    again = begin(folder)
    assert again.header == first.header
    assert again.header.concurrency == 3
    assert len(again.record.trials) == 2
    assert begin(locate("studies/other")).header.meta["id"] != first.header.meta["id"]


@pytest.mark.parametrize(
    ("change", "snapshots", "words"),
    [
        ("search.seed=14", SNAPSHOTS, "seed is 13 there, 14 here"),
        ("train.set.workers=2", SNAPSHOTS, "meta.identity"),
        ("search.seed=13", {"train": "xyz"}, "xyz"),
    ],
)
def test_another_study_under_the_same_name_is_refused(change: str, snapshots: Any, words: str) -> None:
    folder = locate("studies/one")
    run(begin(folder, "search.concurrency=1"), 1)
    with pytest.raises(Conflict, match=words):
        begin(folder, "search.concurrency=1", change, snapshots=snapshots)


def test_a_study_starts_from_what_earlier_ones_found_in_its_space(capsys: pytest.CaptureFixture[str]) -> None:
    earlier = run(begin(locate("studies/earlier")), 6)
    rates = [trial.params["flavors.xgboost.learning_rate"] for trial in earlier.record.trials]
    study = begin(locate("studies/next"), "search.from_studies=[earlier]")
    assert [point.params for point in study.header.known] == [t.params for t in earlier.record.trials]
    assert [point.metrics["validation_auc"] for point in study.header.known] == rates
    assert "study earlier: 6 trials to start from, 0 outside" in capsys.readouterr().out


def test_a_study_in_which_nothing_succeeded_says_what_failed_first() -> None:
    study = begin(locate("studies/bad"))
    study.ask()
    study.tell(0, {}, status="failed", error="ValueError: no such method", seconds=0.1)
    with pytest.raises(DataError, match=r"none of the 1 trials of study 'bad' .* ValueError: no such method"):
        _best("bad", study.record)


def test_only_the_studys_own_runs_are_cleared(tmp_path: Path) -> None:
    for name in ("one-ab12-trial-0", "one-ab12-trial-11", "one-cd34-trial-0", "mine"):
        (tmp_path / "runs" / name / "checkpoint_0").mkdir(parents=True)
    _clear("runs", "one-ab12-trial-")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["mine", "one-cd34-trial-0"]
