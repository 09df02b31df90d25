"""Tune's schedulers by name: their options, and that they know what ended before the driver did."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from raymill.errors import SpecError, Unsupported
from raymill.search import Space
from raymill.search.header import Objective
from raymill.search.record import Trial
from raymill.search.schedulers import SCHEDULERS, Progress, make_scheduler, needs_checkpoints, remind

EPOCHS = Progress(unit="epoch", longest=16)
SCORE = Objective(metric="score", mode="max")
SPACE = Space.parse(
    {
        "parameters": {
            "rate": {"type": "float", "low": 0.001, "high": 0.1, "log": True},
            "depth": {"type": "int", "low": 2, "high": 8, "step": 2},
            "method": {"type": "categorical", "values": ["a", "b"]},
        }
    }
)


@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_every_scheduler_takes_its_defaults_and_waits_for_our_unit(name: str) -> None:
    scheduler = make_scheduler(name, {}, EPOCHS, SCORE, SPACE)
    assert scheduler._time_attr == "epoch"
    assert needs_checkpoints(scheduler) == (name in ("hyperband", "pbt"))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("ahsa", {}, "scheduler 'ahsa' is unknown; have: asha, hyperband"),
        ("asha", {"grace": 1}, "no option 'grace'; have: brackets, grace_period"),
        ("asha", {"grace_period": 99}, "grace_period must be <= max_t"),
        ("asha", {"metric": "loss"}, "no option 'metric'"),
    ],
)
def test_what_a_scheduler_does_not_have_is_refused_by_name(name: str, options: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words.replace("(", r"\(")):
        make_scheduler(name, options, EPOCHS, SCORE, SPACE)


def ended(number: int, score: float) -> Trial:
    reports = [(epoch, {"epoch": float(epoch), "score": score}) for epoch in (1, 2, 4)]
    return Trial(number, 0, {}, status="complete", metrics=reports[-1][1], reports=reports)


@pytest.mark.parametrize(("name", "options"), [("asha", {"reduction_factor": 2}), ("median_stopping", {})])
def test_a_resumed_scheduler_compares_with_trials_that_ended_before(name: str, options: Any) -> None:
    """A bad first report is stopped by a scheduler that remembers good ones, and by no new one."""
    decisions = {}
    for what, past in {"new": [], "resumed": [ended(n, 0.8 + n / 100) for n in range(8)]}.items():
        scheduler = make_scheduler(name, options, EPOCHS, SCORE, SPACE)
        remind(scheduler, past)
        controller, trial = SimpleNamespace(get_live_trials=list), _Hashable()
        scheduler.on_trial_add(controller, trial)
        decisions[what] = scheduler.on_trial_result(controller, trial, {"epoch": 2, "score": 0.1})
    assert decisions == {"new": "CONTINUE", "resumed": "STOP"}


def test_pbt_leaves_no_range() -> None:
    explore = make_scheduler("pbt", {}, EPOCHS, SCORE, SPACE)._custom_explore_fn
    changed = explore({"number": 3, "params": {"rate": 0.12, "depth": 5, "method": "b"}})
    assert changed == {"number": 3, "params": {"rate": 0.1, "depth": 6, "method": "b"}}
    assert SPACE.contains(changed["params"])
    assert (
        explore({"number": 3, "params": {"rate": 0.0008, "depth": 1, "method": "a"}})["params"]["depth"] == 2
    )


def test_pbt_is_refused_where_it_could_not_keep_a_condition() -> None:
    space = Space.parse({"parameters": SPACE.model_dump()["parameters"], "constraints": ["depth > 2"]})
    with pytest.raises(Unsupported, match="drop `when` and `constraints`, or use asha"):
        make_scheduler("pbt", {}, EPOCHS, SCORE, space)


class _Hashable:
    trial_id = "now"
