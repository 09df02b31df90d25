"""What a study will do, worked out and held to every rule before anything runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raymill.config import with_values
from raymill.errors import SpecError, Unavailable, Unsupported, nearest
from raymill.evaluation import METRICS
from raymill.flavors import FLAVORS
from raymill.search import SEARCHERS, Searcher, Space
from raymill.search.header import Objective, Stage
from raymill.search.schedulers import NEEDS_CHECKPOINTS, SECONDS, Progress, make_scheduler
from raymill.train.spec import TrainSpec
from raymill.tune.spec import TuneSpec
from raymill.tune.trial import train_spec

TRIAL_CPUS = 0.1
"""What a trial's process holds that only waits for its workers."""
MOST_AT_ONCE = 8
TUNABLE = ("flavors.", "read.", "seed", "checkpoint.")
"""Where parameters may lie: what the data is and where it goes is the same for all trials."""


@dataclass(frozen=True)
class Plan:
    """A validated study."""

    trials: dict[str, Any]
    """Train spec document of trials."""
    best: dict[str, Any]
    """Train spec document of the training with the best parameters."""
    base: TrainSpec
    """The trials' spec before their parameters."""
    stages: tuple[Stage, ...]
    """With their trials."""
    progress: Progress


def make_plan(spec: TuneSpec) -> Plan:
    """Return the plan of a study.

    Raises:
        SpecError: a train spec, parameter, objective or scheduler that cannot work.
        Unsupported: a scheduler that needs what these trials cannot do.
    """
    document = with_values(_read(spec.train.spec), spec.train.set)
    best = train_spec(document, {}, spec.train.spec)
    document = with_values(document, {"strategy": _strategy(best)})
    trials = with_values(document, spec.train.trials)
    base = train_spec(trials, {}, "train.trials")
    if base.read.order == "incremental":
        raise Unsupported("trials train from scratch, read.order incremental continues a version; use full")
    trials = with_values(trials, {"strategy": _strategy(base)})
    base = train_spec(trials, {})
    _check_space(spec.space, trials, base)
    _check_objective(spec.objective, base)
    progress = _progress(spec.space, base)
    _check_scheduler(spec, base, progress)
    return Plan(trials, document, base, share_out(spec), progress)


def share_out(spec: TuneSpec) -> tuple[Stage, ...]:
    """Return the stages with their trials: what they say, all cells of a grid, and the rest for the last.

    Stages for which nothing is left are dropped.
    """
    left, found = spec.search.trials, []
    for index, stage in enumerate(spec.search.stages):
        searcher = SEARCHERS.load(stage.searcher)(
            spec.space, seed=spec.search.seed, objectives=len(spec.objective), options=stage.options
        )
        last = index == len(spec.search.stages) - 1
        wanted = min(left, stage.trials or (left if last else _cells(searcher, left)))
        if wanted:
            found.append(stage.model_copy(update={"trials": wanted}))
        left -= wanted
    return tuple(found)


def _cells(searcher: Searcher, most: int) -> int:
    """Return how many suggestions a searcher has, up to `most`."""
    if not searcher.finite:
        raise SpecError(
            f"search.stages: {searcher.name!r} never runs out of suggestions, so the stage after it would "
            "never begin; give it `trials`"
        )
    count = 0
    while count < most and searcher.ask():
        count += 1
    return count


def concurrency(spec: TuneSpec, base: TrainSpec, have: Mapping[str, float]) -> int:
    """Return how many trials run at once, on a cluster that can have resources `have`.

    Raises:
        Unavailable: the cluster cannot hold so many, or not even one.
    """
    each = _whole_trial(base)
    fits = min(math.floor(have.get(name, 0.0) / part + 1e-9) for name, part in each.items())
    asked = spec.search.concurrency
    if fits < (asked or 1):
        needs = ", ".join(f"{part:g} {name}" for name, part in each.items())
        has = ", ".join(f"{have.get(name, 0.0):g} {name}" for name in each)
        way_out = f"use search.concurrency={fits}" if fits else "ask for fewer workers"
        raise Unavailable(
            f"{asked or 1} trials at once need {needs} each, workers included, and this cluster can have "
            f"{has} at most; {way_out}, or raise the cluster's limits"
        )
    return asked or min(fits, spec.search.trials, MOST_AT_ONCE)


def trial_bundles(base: TrainSpec) -> list[dict[str, float]]:
    """Return what is set aside for a trial: for its own process first, and for workers that lie with it.

    Other workers hold what they need themselves.
    """
    if base.strategy == "local":
        return [base.worker_resources()]
    together = FLAVORS.load(base.flavor).workers_in_trial
    return [{"CPU": TRIAL_CPUS}, *([base.worker_resources()] * base.most_workers if together else [])]


def _whole_trial(base: TrainSpec) -> dict[str, float]:
    """Return what a trial holds with all its workers."""
    if base.strategy == "local":
        return base.worker_resources()
    workers = {name: base.most_workers * part for name, part in base.worker_resources().items()}
    return workers | {"CPU": workers.get("CPU", 0.0) + TRIAL_CPUS}


def _read(path: str) -> dict[str, Any]:
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"train.spec {path!r} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise SpecError(f"train.spec {path!r} must be a mapping of keys, got {type(document).__name__}")
    return document


def _strategy(base: TrainSpec) -> str:
    """Return "local" for trials of one worker whose flavor can, which saves the start of the worker."""
    one = base.most_workers == 1 and base.strategy == "ddp"
    return "local" if one and FLAVORS.load(base.flavor)().local else base.strategy


def _check_space(space: Space, document: Mapping[str, Any], base: TrainSpec) -> None:
    """Refuse parameters that the train spec does not have, or has otherwise: at the ends of each range."""
    for name, parameter in space.parameters.items():
        if not name.startswith(TUNABLE):
            full = f"flavors.{base.flavor}.{name}"
            hint = f" Did you mean {full!r}?" if name in FLAVORS.load(base.flavor).Config.model_fields else ""
            raise SpecError(
                f"space: {name!r} is not tunable; parameters lie under flavors.{base.flavor}, read or "
                f"checkpoint, or are seed.{hint}"
            )
        for value in (parameter.decode(0.0), parameter.decode(1.0)):
            try:
                train_spec(document, {name: value}, "the train spec")
            except SpecError as error:
                raise SpecError(f"space: {name} = {value!r} is refused by {error}") from error


def _check_objective(objective: Mapping[str, str], base: TrainSpec) -> None:
    reported = [*(f"validation_{metric}" for metric in METRICS[base.task]), SECONDS]
    for metric in objective:
        if metric not in reported:
            raise SpecError(
                f"objective {metric!r} is never reported by training of task {base.task}; have: "
                f"{', '.join(reported)}.{nearest(metric, reported)}"
            )


def _check_scheduler(spec: TuneSpec, base: TrainSpec, progress: Progress) -> None:
    scheduler = spec.search.scheduler
    if scheduler is None:
        return
    metric, mode = next(iter(spec.objective.items()))
    objective = Objective(metric=metric, mode=mode)
    make_scheduler(scheduler.name, scheduler.options, progress, objective, spec.space)
    if scheduler.name in NEEDS_CHECKPOINTS and base.strategy != "local":
        raise Unsupported(
            f"scheduler {scheduler.name!r} moves trials between states, which trials with workers of "
            "their own cannot; use asha or median_stopping, or workers: 1"
        )
    may_change = [f"flavors.{base.flavor}.{name}" for name in FLAVORS.load(base.flavor).mutable]
    for name in spec.space.parameters:
        if scheduler.name == "pbt" and name not in may_change:
            raise Unsupported(
                f"scheduler 'pbt' changes parameters while a model trains, which {name!r} cannot; have: "
                f"{', '.join(may_change)}; leave it out of the space, or use asha"
            )


def _progress(space: Space, base: TrainSpec) -> Progress:
    """Return what a flavor's trainings count, and the most that the space allows of it."""
    flavor = FLAVORS.load(base.flavor)()
    name = f"flavors.{base.flavor}.{flavor.duration}"
    longest = getattr(base.flavor_config(), flavor.duration)
    if name in space.parameters:
        longest = max(space.parameters[name].decode(unit) for unit in (0.0, 1.0))
    return Progress(unit=flavor.duration.removesuffix("s"), longest=int(longest))
