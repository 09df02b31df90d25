"""The study: replayable whatever ends first, resumable at any event, honest about failures."""

from __future__ import annotations

import json
import math
import random
import tempfile
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_search import FOLLOWER

from raymill.errors import Conflict, Corrupt, InvalidInput, NotFound, SpecError, Unsupported
from raymill.search import SEARCHERS, Float, Int, Space
from raymill.search.header import Budget, KnownPoint, Objective, Stage, StudyHeader
from raymill.search.record import Record
from raymill.search.study import Study

SPACE = Space.parse(
    {
        "parameters": {
            "eta": {"type": "float", "low": 0.01, "high": 1, "log": True},
            "depth": {"type": "int", "low": 1, "high": 8},
            "booster": {"type": "categorical", "values": ["tree", "dart"]},
            "drop": {"type": "float", "low": 0, "high": 1, "when": {"booster": "dart"}},
        },
        "constraints": ["eta * depth <= 4"],
        "defaults": [{"eta": 0.3, "booster": "tree"}],
    }
)
NAMES = [*SEARCHERS, FOLLOWER]
AUC = (Objective(metric="auc", mode="max"),)
KILLS = st.lists(st.integers(0, 25), min_size=1, max_size=3)
GRID = {"values": {"eta": [0.1, 0.5], "depth": [3, 5]}}


def header(*stages: Stage, concurrency: int = 1, **given) -> StudyHeader:
    return StudyHeader(space=SPACE, stages=stages, objectives=AUC, concurrency=concurrency, **given)


def score(params) -> float:
    """An objective that fails for some points, by exception, NaN or infinity."""
    value = -((math.log(params["eta"]) + 1.5) ** 2) - (params["depth"] - 4) ** 2 / 8 + params.get("drop", 0.2)
    return {2: math.nan, 7: math.inf}.get(params["depth"], value)


def drive(study: Study, choose: random.Random, *, stop_after: int | None = None) -> list[tuple[int, dict]]:
    """Run trials in a random order of ends, and return the suggestions; stop dead after so many events."""
    running = study.pending()
    events = count()
    while True:
        while len(running) < study.header.concurrency and (trial := study.ask()):
            running.append(trial)
            if next(events) == stop_after:
                return []
        if not running:
            return [(trial.stage, trial.params) for trial in study.record.trials]
        trial = running.pop(choose.randrange(len(running)))
        if trial.params["depth"] == 6:
            study.tell(trial.number, {}, status="failed", error="out of memory")
        else:
            study.tell(trial.number, {"auc": score(trial.params)}, seconds=1.0)
        if next(events) == stop_after:
            return []


def stages_of(name: str) -> tuple[Stage, ...]:
    first = Stage(searcher="grid", options=GRID)
    trials = 6 if name == "bayesian" else 14  # its models cost time
    return (first,) if name == "grid" else (first, Stage(searcher=name, trials=trials))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=4)
@given(st.integers(1, 5), st.integers(0, 3), st.randoms(use_true_random=False))
def test_suggestions_do_not_depend_on_which_trial_ends_first(name, concurrency, slack, choose):
    spec = header(*stages_of(name), concurrency=concurrency, slack=slack)
    wanted = drive(Study(spec), random.Random(0))
    assert drive(Study(spec), choose) == wanted
    assert len(wanted) >= 5


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=4)
@given(
    st.integers(1, 5), st.integers(0, 2), st.lists(st.integers(0, 25), min_size=1, max_size=3),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_a_study_killed_at_any_event_suggests_what_the_uninterrupted_one_does(
    name, concurrency, slack, kills, choose
):
    spec = header(*stages_of(name), concurrency=concurrency, slack=slack)
    wanted = drive(Study(spec), random.Random(0))
    with tempfile.TemporaryDirectory() as folder:
        for stop_after in kills:
            drive(Study.open_or_create(folder, spec), choose, stop_after=stop_after)
            tear(folder, choose)
        study = Study.open_or_create(folder, spec)
        assert drive(study, choose) == wanted
        study.close()
        assert [(t.stage, t.params) for t in Study.read(folder).trials] == wanted


def tear(folder: str, choose: random.Random) -> None:
    """Cut the end off the newest segment's last line, now and then, as a dying writer does."""
    segment = max((Path(folder) / "log").iterdir())
    data = segment.read_bytes()
    if choose.random() < 0.5 and data.count(b"\n") > 1:
        segment.write_bytes(data[: -choose.randint(1, 5)])


def test_arrival_order_never_waits_and_resumes_from_the_log_as_it_was(tmp_path):
    spec = header(Stage(searcher="random", trials=9), concurrency=3, order="arrival")
    study = Study.open_or_create(tmp_path / "a", spec)
    oldest = study.ask()
    for _ in range(6):
        trial = study.ask()
        study.tell(trial.number, {"auc": 0.5})
    study.close()
    again = Study.open_or_create(tmp_path / "a", spec)
    assert [trial.number for trial in again.pending()] == [oldest.number]
    assert again.ask().number == 7


@pytest.mark.parametrize(("name", "slack", "ahead"), [(FOLLOWER, 0, 0), (FOLLOWER, 2, 2), ("random", 0, 6)])
def test_a_searcher_that_learns_waits_for_the_oldest_result_it_needs(name, slack, ahead):
    study = Study(header(Stage(searcher=name, trials=9), concurrency=3, slack=slack))
    oldest, *others = [study.ask() for _ in range(3)]
    assert study.ask() is None  # three run
    for trial in others:
        study.tell(trial.number, {"auc": 0.5})
    for _ in range(ahead):
        study.tell(study.ask().number, {"auc": 0.5})
    assert study.ask() is None
    assert study.is_finished() == (ahead == 6)
    study.tell(oldest.number, {"auc": 0.5})
    assert ahead == 6 or study.ask().number == 3 + ahead


def test_a_torn_last_line_is_told_and_any_other_damage_is_an_error(tmp_path):
    spec = header(Stage(searcher="random", trials=5))
    study = Study.open_or_create(tmp_path, spec)
    study.tell(study.ask().number, {"auc": 0.5})
    study.ask()
    study.close()
    segment = tmp_path / "log" / "00000001.jsonl"
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-3])
    record = Study.read(tmp_path)
    assert len(record.trials) == 1
    assert "torn line" in record.torn[0]
    assert Study.open_or_create(tmp_path, spec).record.torn == record.torn
    segment.write_bytes(b"#" + whole)
    with pytest.raises(Corrupt, match=r"line 1 of .* is no event"):
        Study.read(tmp_path)


def test_failed_and_not_finite_trials_are_counted_told_and_never_best():
    study = Study(header(Stage(searcher="random", trials=6)))
    told = [{"auc": 0.6}, {"auc": math.nan}, {"auc": math.inf}, {"loss": 0.1}, {}, {"auc": 0.7}]
    for metrics in told:
        study.tell(study.ask().number, metrics, status="failed" if not metrics else "complete", error="boom")
    assert study.ask() is None
    assert study.is_finished()
    record = study.record
    assert record.counts() == {"complete": 2, "stopped": 0, "failed": 4, "running": 0}
    assert record.best().number == 5
    errors = [trial.error for trial in record.trials]
    assert "is nan" in errors[1]
    assert "is inf" in errors[2]
    assert "no metric 'auc', only: loss" in errors[3]
    assert errors[4] == "boom"
    assert Record(study.header).best() is None


def test_not_finite_metrics_survive_the_log_as_strict_json(tmp_path):
    study = Study.open_or_create(tmp_path, header(Stage(searcher="random", trials=2)))
    study.tell(study.ask().number, {"auc": 0.5, "loss": math.inf, "gap": math.nan})
    study.close()
    line = (tmp_path / "log" / "00000001.jsonl").read_text().splitlines()[-1]
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    metrics = Study.read(tmp_path).trials[0].metrics
    assert metrics["loss"] == math.inf
    assert math.isnan(metrics["gap"])


def test_reports_are_kept_by_step_and_stopped_trials_count():
    study = Study(header(Stage(searcher="random", trials=2)))
    trial = study.ask()
    for step in (1, 2, 2):
        study.report(trial.number, step, {"auc": step / 10})
    study.tell(trial.number, {"auc": 0.2}, status="stopped")
    assert study.record.trials[0].reports == [(1, {"auc": 0.1}), (2, {"auc": 0.2})]
    assert study.record.best() is trial
    with pytest.raises(InvalidInput, match="has ended"):
        study.report(trial.number, 3, {"auc": 0.3})
    with pytest.raises(Conflict, match="told already"):
        study.tell(trial.number, {"auc": 0.9})
    with pytest.raises(InvalidInput, match="never asked"):
        study.tell(5, {"auc": 0.9})


def test_grid_then_another_searcher_on_the_same_observations():
    study = Study(header(*stages_of("random")))
    trials = []
    while trial := study.ask():
        study.tell(trial.number, {"auc": score(trial.params)})
        trials.append(trial)
    assert [trial.stage for trial in trials] == [0] * 5 + [1] * 14
    assert trials[0].params == {"eta": 0.3, "depth": 5, "booster": "tree"}
    cells = [(trial.params["eta"], trial.params["depth"]) for trial in trials[1:5]]
    assert cells == [(0.1, 3), (0.1, 5), (0.5, 3), (0.5, 5)]
    assert len(study._searcher.observations) == 18  # all but the last one's, which nobody asked after


def test_warm_start_takes_an_earlier_studys_successes_that_fit():
    earlier = Study(header(Stage(searcher="random", trials=20)))
    while trial := earlier.ask():
        earlier.tell(trial.number, {"auc": trial.params["depth"] / 10})
    smaller = SPACE.model_copy(update={"constraints": ("depth <= 4",), "defaults": ()})
    points, left_out = earlier.record.known(Space.parse(smaller.model_dump()))
    assert points
    assert left_out
    assert len(points) + left_out == 20
    later = Study(header(Stage(searcher="random", trials=1), known=tuple(points)))
    later.ask()
    assert len(later._searcher.observations) == len(points)
    with pytest.raises(InvalidInput, match="outside the space"):
        header(Stage(searcher="random", trials=1), known=(KnownPoint(params={"eta": 9}, metrics={"auc": 1}),))


def test_budgets_of_time_and_cost_end_the_asking(tmp_path):
    now = [100.0]
    spec = header(Stage(searcher="random"), budget=Budget(seconds=10))
    study = Study.open_or_create(tmp_path, spec, clock=lambda: now[0])
    study.tell(study.ask().number, {"auc": 0.5})
    now[0] += 6
    study.ask()
    study.close()
    now[0] += 1000  # nobody drives it meanwhile
    again = Study.open_or_create(tmp_path, spec, clock=lambda: now[0])
    assert not again.is_finished()
    now[0] += 4
    assert again.is_finished()
    assert again.ask() is None
    costly = Study(header(Stage(searcher="random"), budget=Budget(cost=5, cost_metric="euro")))
    for euro in (3, 3):
        costly.tell(costly.ask().number, {"auc": 0.5, "euro": euro})
    assert costly.is_finished()


def test_another_study_in_the_same_place_is_refused_and_meta_is_free(tmp_path):
    spec = header(Stage(searcher="random", trials=2), meta={"identity": 1, "note": "a"})
    Study.open_or_create(tmp_path, spec).close()
    Study.open_or_create(tmp_path, spec.model_copy(update={"meta": {"identity": 1, "note": "b"}})).close()
    with pytest.raises(Conflict, match="seed is 0 there, 3 here"):
        Study.open_or_create(tmp_path, spec.model_copy(update={"seed": 3}))
    with pytest.raises(Conflict, match=r"meta\.identity is 1 there"):
        Study.open_or_create(tmp_path, spec.model_copy(update={"meta": {"identity": 2}}))
    with pytest.raises(NotFound, match="no study at"):
        Study.read(tmp_path / "none")


def test_a_second_driver_supersedes_the_first(tmp_path):
    spec = header(Stage(searcher="random", trials=5))
    first = Study.open_or_create(tmp_path, spec)
    first.ask()
    second = Study.open_or_create(tmp_path, spec)
    assert len(second.pending()) == 1
    with pytest.raises(Conflict, match="another process has opened"):
        first.tell(0, {"auc": 0.5})
    second.tell(0, {"auc": 0.5})


def test_a_study_on_an_object_store_is_rebuilt_too():
    spec = header(Stage(searcher="random", trials=4), concurrency=2)
    wanted = drive(Study(spec), random.Random(0))
    where = f"memory://study-{random.random()}"
    drive(Study.open_or_create(where, spec), random.Random(1), stop_after=3)
    assert drive(Study.open_or_create(where, spec), random.Random(2)) == wanted


def test_the_pareto_front_of_several_objectives():
    spec = StudyHeader(
        space=Space(parameters={"x": Float(low=0, high=1)}), stages=(Stage(searcher="random", trials=30),),
        objectives=(Objective(metric="auc", mode="max"), Objective(metric="cost", mode="min")),
    )  # fmt: skip
    study = Study(spec)
    while trial := study.ask():
        x = trial.params["x"]
        study.tell(trial.number, {"auc": min(x, 0.5), "cost": x})
    front = {trial.number for trial in study.record.pareto()}
    x_N = np.array([trial.params["x"] for trial in study.record.trials])
    assert front == set(np.flatnonzero(x_N <= min(x_N[x_N >= 0.5])))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: header(), "at least 1 item"),
        (lambda: header(Stage(searcher="randm", trials=1)), "Did you mean 'random'"),
        (lambda: header(Stage(searcher="random")), "never runs out"),
        (lambda: header(Stage(searcher="random", trials=0)), "greater than or equal to 1"),
        (lambda: header(Stage(searcher="random", options={"seqense": 1}, trials=1)),
         "unknown key 'seqense'"),
        (lambda: header(Stage(searcher="grid")), "'eta' has no levels"),
        (lambda: header(Stage(searcher="grid", options={"values": {"eta": [7]}})), "outside the space"),
        (lambda: header(Stage(searcher="grid", options={"values": {"etta": [7]}})), "Did you mean 'eta'"),
        (lambda: header(Stage(searcher="random", trials=1), concurrency=0), "greater than or equal to 1"),
        (lambda: header(Stage(searcher="random"), Stage(searcher="random", trials=1),
                        budget=Budget(seconds=9)), "stage 1 never begins"),
    ],
)  # fmt: skip
def test_a_study_that_cannot_work_is_refused_at_construction(make, says):
    with pytest.raises((SpecError, Unsupported, ValueError), match=says):
        make()


def test_grid_takes_every_cell_once_with_conditions():
    space = Space.parse(
        {
            "parameters": {
                "n": {"type": "int", "low": 1, "high": 2},
                "kind": {"type": "ordinal", "values": ["a", "b"]},
                "extra": {"type": "boolean", "when": {"kind": "b"}},
            }
        }
    )
    grid = SEARCHERS.load("grid")(space)
    cells = []
    while suggestion := grid.ask():
        cells.append(suggestion.params)
    assert len(cells) == 2 * (1 + 2)
    assert all(space.contains(cell) for cell in cells)


def test_asking_and_telling_costs_little(tmp_path):
    import time

    spec = StudyHeader(
        space=Space(parameters={"x": Float(low=0, high=1), "n": Int(low=0, high=9)}), objectives=AUC,
        stages=(Stage(searcher="random", trials=200),), concurrency=4,
    )  # fmt: skip
    study = Study.open_or_create(tmp_path, spec)
    started = time.perf_counter()
    while trial := study.ask():
        study.tell(trial.number, {"auc": 0.5})
    assert (time.perf_counter() - started) / 200 < 0.003
