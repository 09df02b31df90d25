"""The bridge to Ray Tune, driven as Tune drives it: what is asked, told, resumed, stopped, failed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from raymill.search.header import Objective, Stage, StudyHeader
from raymill.search.schedulers import SECONDS
from raymill.search.study import Study
from raymill.search.tune import DONE, FAILED, FINAL, StudySearcher

FINISHED = StudySearcher.FINISHED


def header(trials: int = 6, concurrency: int = 2) -> StudyHeader:
    space = {"parameters": {"x": {"type": "float", "low": 0.0, "high": 1.0}}}
    return StudyHeader.model_validate(
        {
            "space": space, "stages": [Stage(searcher="random", trials=trials)], "seed": 5,
            "objectives": [Objective(metric="score", mode="max")], "concurrency": concurrency,
        }
    )  # fmt: skip


def ending(score: float) -> dict[str, Any]:
    """Return what Tune hands over when a trial ends by itself, its own keys among it."""
    tune = {"training_iteration": 3, "time_total_s": 9.0, "config/number": 1, "done": True, "pid": 7}
    return {"score": score, SECONDS: 2.5, FINAL: 1, DONE: True} | tune


def drive(searcher: StudySearcher, endings: list[int]) -> list[dict[str, Any]]:
    """Ask until there is no more, ending the oldest or the newest trial by turns; return what was asked."""
    running: list[str] = []
    asked: list[dict[str, Any]] = []
    while True:
        name = f"t{len(asked)}"
        suggestion = searcher.suggest(name)
        if isinstance(suggestion, dict):
            running.append(name)
            asked.append(suggestion)
            continue
        if not running:
            assert suggestion == FINISHED
            return asked
        ends = running.pop(endings[len(asked) % len(endings)] % len(running))
        searcher.on_trial_complete(ends, ending(asked[int(ends[1:])]["params"]["x"]))


@pytest.mark.parametrize("endings", [[0], [-1], [0, -1, -1]])
def test_every_trial_is_asked_once_whatever_ends_first(endings: list[int]) -> None:
    study, reference = Study(header()), Study(header())
    asked = drive(StudySearcher(study), endings)
    assert [one["number"] for one in asked] == list(range(6))
    assert asked == drive(StudySearcher(reference), [0])
    assert study.record.counts()["complete"] == 6


def test_no_more_trials_run_at_once_than_the_study_says() -> None:
    searcher = StudySearcher(Study(header(concurrency=2)))
    assert [searcher.suggest(name) is None for name in ("a", "b", "c")] == [False, False, True]


def test_a_killed_driver_loses_no_trial_and_runs_none_twice(tmp_path: Path) -> None:
    first = Study.open_or_create(str(tmp_path), header())
    searcher = StudySearcher(first)
    asked = {name: searcher.suggest(name) for name in ("a", "b")}
    searcher.on_trial_complete("b", ending(0.3))
    first.close()  # and gone, with "a" running
    second = Study.open_or_create(str(tmp_path), header())
    again = StudySearcher(second)
    assert again.suggest("c") == asked["a"]
    again.on_trial_complete("c", ending(0.1))
    rest = drive(again, [0])
    assert [one["number"] for one in rest] == [2, 3, 4, 5]
    whole = Study(header())
    drive(StudySearcher(whole), [0])
    assert [t.params for t in second.record.trials] == [t.params for t in whole.record.trials]


def test_only_the_trials_own_numbers_are_metrics() -> None:
    study = Study(header())
    searcher = StudySearcher(study)
    searcher.suggest("a")
    searcher.on_trial_complete("a", ending(0.4))
    (trial,) = study.record.trials
    assert (trial.metrics, trial.seconds, trial.status) == ({"score": 0.4, SECONDS: 2.5}, 2.5, "complete")


def test_a_trial_that_a_scheduler_stops_counts_by_its_last_report() -> None:
    study = Study(header())
    searcher = StudySearcher(study)
    searcher.suggest("a")
    report = {"score": 0.2, "training_iteration": 1, SECONDS: 1.0}
    searcher.on_trial_result("a", report)
    searcher.on_trial_complete("a", report | {"score": 0.1, DONE: True})
    (trial,) = study.record.trials
    assert (trial.status, trial.metrics, trial.reports) == (
        "stopped",
        {"score": 0.1, SECONDS: 1.0},
        [(1, {"score": 0.2})],
    )


@pytest.mark.parametrize(
    ("result", "error", "words"),
    [
        ({FAILED: "ValueError: no rows", SECONDS: 1.0, FINAL: 1}, False, "ValueError: no rows"),
        (None, True, "its process died"),
        (ending(math.nan), False, "'score' is nan"),
        (ending(math.inf), False, "'score' is inf"),
        ({SECONDS: 1.0, FINAL: 1, "other": 2.0}, False, "reported no metric 'score', only: other"),
    ],
)
def test_a_failed_trial_is_told_why_and_is_never_the_best(result: Any, error: bool, words: str) -> None:
    study = Study(header(trials=2))
    searcher = StudySearcher(study)
    searcher.suggest("a")
    searcher.suggest("b")
    searcher.on_trial_complete("a", result, error=error)
    assert study.record.trials[0].status == "failed"
    assert words in study.record.trials[0].error
    assert study.record.best() is None
    searcher.on_trial_complete("b", ending(-9.0))
    assert study.record.best() is study.record.trials[1]
    assert searcher.suggest("c") == FINISHED
