"""Tune specs that cannot work: one clear error each, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from raymill.config import load
from raymill.errors import RaymillError, SpecError, Unavailable
from raymill.search.header import Objective, StudyHeader
from raymill.search.record import Record, Trial
from raymill.search.report import best_document
from raymill.tune.plan import concurrency, make_plan
from raymill.tune.spec import TuneSpec
from raymill.tune.trial import kept_entry, train_spec

ROOT = Path(__file__).resolve().parents[3]
DEPTH = "flavors.xgboost.max_depth"
RATE = "flavors.xgboost.learning_rate"


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # as a submitted job is: train.spec is relative to it


def spec(**changes: Any) -> TuneSpec:
    overrides = [f"{key.replace('__', '.')}={yaml.safe_dump(value)}" for key, value in changes.items()]
    return load(
        TuneSpec, ROOT / "examples/flights/tune.yaml", ["search.stages=[{searcher: random}]", *overrides]
    )


def space(name: str = DEPTH, **parameter: Any) -> dict[str, Any]:
    return {"parameters": {name: {"type": "int", "low": 2, "high": 8} | parameter}}


BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "empty space": ({"space": {"parameters": {}}}, ["at least one parameter"]),
    "low above high": ({"space": space(low=9)}, ["low must not be above high", "9"]),
    "log range at zero": ({"space": space(RATE, type="float", low=0, high=1, log=True)}, ["above zero"]),
    "condition on an unknown parameter": ({"space": space(when={"booster": "dart"})}, ["'booster'", "have"]),
    "condition in a cycle": (
        {"space": {"parameters": {
            DEPTH: {"type": "int", "low": 2, "high": 8, "when": f"{RATE} > 0.1"},
            RATE: {"type": "float", "low": 0.1, "high": 1, "when": f"{DEPTH} > 3"},
        }}},
        ["cycle"],
    ),
    "constraint that nothing meets": (
        {"space": space() | {"constraints": [f"{DEPTH} > 100"]}}, ["no sample", "100", "loosen it"],
    ),
    "key that training does not have": ({"space": space("flavors.xgboost.depth")}, ["'depth'", "max_depth"]),
    "key without its section": ({"space": space("max_depth")}, ["'max_depth' is not tunable", DEPTH]),
    "what all trials share": ({"space": space("data.train")}, ["'data.train' is not tunable"]),
    "range that training refuses": ({"space": space(low=-4)}, [DEPTH, "greater than or equal to 0", "-4"]),
    "metric never reported": (
        {"objective": {"validation_auk": "max"}},
        ["'validation_auk' is never reported", "Did you mean 'validation_auc'"],
    ),
    "metric of another task": ({"objective": {"validation_rmse": "min"}}, ["task binary", "validation_auc"]),
    "no objective": ({"objective": {}}, ["an objective is needed"]),
    "direction": ({"objective": {"validation_auc": "up"}}, ["objective.validation_auc", "'up'"]),
    "zero trials": ({"search__trials": 0}, ["search.trials", "greater than or equal to 1"]),
    "unknown searcher": ({"search__stages": [{"searcher": "randm"}]}, ["'randm'", "Did you mean 'random'"]),
    "unknown scheduler": ({"search__scheduler": {"name": "ahsa"}}, ["'ahsa'", "asha, hyperband"]),
    "scheduler's option": (
        {"search__scheduler": {"name": "asha", "options": {"grace": 2}}},
        ["no option 'grace'", "grace_period"],
    ),
    "scheduler that needs states": (
        {"search__scheduler": {"name": "hyperband"}, "train__set": {"flavor": "torch", "workers": 2},
         "space": space("flavors.torch.epochs")},
        ["'hyperband'", "workers: 1"],
    ),
    "pbt of what cannot change": (
        {"search__scheduler": {"name": "pbt"}}, ["'flavors.xgboost.rounds' cannot", "use asha"],
    ),
    "endless stage before another": (
        {"search__stages": [{"searcher": "random"}, {"searcher": "random"}]},
        ["'random' never runs out", "`trials`"],
    ),
    "no such train spec": ({"train__spec": "nowhere.yaml"}, ["nowhere.yaml", "cannot be read"]),
    "unknown key of training": ({"train__set": {"flavour": "torch"}}, ["'flavour'", "Did you mean 'flavor'"]),
    "incremental trials": ({"train__trials": {"read.order": "incremental"}}, ["incremental", "use full"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_spec_that_cannot_work_is_refused(case: str) -> None:
    changes, words = BAD[case]
    with pytest.raises(RaymillError) as caught:
        make_plan(spec(**changes))
    for word in words:
        assert word in str(caught.value)


def test_trials_of_one_worker_train_in_their_own_process_and_the_best_as_they_did() -> None:
    plan = make_plan(spec())
    assert (plan.base.strategy, plan.best["strategy"]) == ("local", "local")
    plan = make_plan(spec(train__set={"flavor": "xgboost", "workers": 2}))
    assert (plan.base.strategy, plan.best["strategy"]) == ("ddp", "ddp")


def test_the_best_is_trained_without_what_only_trials_do() -> None:
    plan = make_plan(spec(train__trials={"read.batch_rows": 99}))
    assert plan.base.read.batch_rows == 99
    assert train_spec(plan.best, {}).read.batch_rows == 2048


@pytest.mark.parametrize(("patience", "kept"), [(None, 30.0), (5, 20.0)])
def test_a_trials_metrics_are_those_of_the_model_that_early_stopping_keeps(
    patience: Any, kept: float
) -> None:
    stopping = None if patience is None else {"patience": patience}
    values = {"flavor": "xgboost", "flavors.xgboost.early_stopping": stopping}
    base = make_plan(spec(train__set=values)).base
    history = [{"round": 10.0 * n, "validation_auc": auc} for n, auc in ((1, 0.6), (2, 0.7), (3, 0.65))]
    assert kept_entry(base, history)["round"] == kept


def test_a_grid_gets_its_cells_and_the_last_stage_the_rest() -> None:
    grid = {"searcher": "grid", "options": {"values": {DEPTH: [3, 5], RATE: [0.1, 0.5]}}}
    for trials, shares in ((10, [4, 6]), (4, [4]), (3, [3])):
        plan = make_plan(spec(search__stages=[grid, {"searcher": "random"}], search__trials=trials))
        assert [stage.trials for stage in plan.stages] == shares


def test_schedulers_know_the_longest_that_a_trial_can_be() -> None:
    assert make_plan(spec()).progress.longest == 200
    fixed = spec(space=space(), train__set={"flavor": "xgboost", "flavors.xgboost.rounds": 77})
    assert make_plan(fixed).progress.longest == 77
    assert make_plan(spec()).progress.unit == "round"


@pytest.mark.parametrize(
    ("workers", "asked", "cpus", "fits"), [(1, None, 3, 3), (1, 2, 3, 2), (2, None, 3, 1), (2, None, 64, 8)]
)
def test_as_many_trials_run_as_the_cluster_holds_with_their_workers(
    workers: int, asked: int | None, cpus: int, fits: int
) -> None:
    wanted = spec(train__set={"flavor": "xgboost", "workers": workers}, search__concurrency=asked)
    assert concurrency(wanted, make_plan(wanted).base, {"CPU": cpus}) == fits


@pytest.mark.parametrize(
    ("workers", "asked", "words"),
    [
        (1, 9, "9 trials at once need 1 CPU each, workers included, and this cluster can have 3 CPU at most; "
               "use search.concurrency=3"),
        (2, 2, "2 trials at once need 2.1 CPU each"),
        (4, None, "ask for fewer workers"),
    ],
)  # fmt: skip
def test_more_at_once_than_the_cluster_holds_is_refused(workers: int, asked: int | None, words: str) -> None:
    wanted = spec(train__set={"flavor": "xgboost", "workers": workers}, search__concurrency=asked)
    with pytest.raises(Unavailable, match=words):
        concurrency(wanted, make_plan(wanted).base, {"CPU": 3})


def test_the_best_spec_trains_with_the_trials_parameters_and_names_their_source() -> None:
    wanted = spec()
    plan = make_plan(wanted)
    header = StudyHeader(
        space=wanted.space, stages=plan.stages, objectives=(Objective(metric="auc", mode="max"),),
        meta={"train": plan.best},
    )  # fmt: skip
    document = best_document("flights", Record(header), Trial(7, 0, {DEPTH: 5, RATE: 0.2}))
    best = train_spec(yaml.safe_load(yaml.safe_dump(document)), {})
    assert (best.flavor_config().max_depth, best.flavor_config().learning_rate) == (5, 0.2)
    assert best.study == "flights/7"
    with pytest.raises(SpecError):
        train_spec(document, {"nothing": 1})
