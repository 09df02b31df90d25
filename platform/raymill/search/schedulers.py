"""Ray Tune's schedulers by name: which trials of a study stop early, or go on from another's state."""

from __future__ import annotations

import inspect
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raymill.errors import SpecError, Unsupported, nearest
from raymill.registry import Registry
from raymill.search.header import Objective
from raymill.search.parameters import Parameter
from raymill.search.record import Trial
from raymill.search.space import Space

SCHEDULERS: Registry[Any] = Registry(
    "scheduler",
    {
        "asha": "ray.tune.schedulers:ASHAScheduler",
        "hyperband": "ray.tune.schedulers:HyperBandScheduler",
        "median_stopping": "ray.tune.schedulers:MedianStoppingRule",
        "pbt": "ray.tune.schedulers:PopulationBasedTraining",
    },
)
SECONDS = "trial_seconds"
"""Metric that every trial has besides its own: how long it ran."""
NEEDS_CHECKPOINTS = {"hyperband", "pbt"}
"""They pause trials, or start one from another's state."""
_OURS = {"self", "metric", "mode", "time_attr", "hyperparam_mutations", "custom_explore_fn"}


@dataclass(frozen=True)
class Progress:
    """How far a trial is: what schedulers compare trials at."""

    unit: str
    """Key of a trial's reports that counts, such as "epoch" or "round"."""
    longest: int
    """The most any trial of the study can reach."""


def make_scheduler(
    name: str, options: Mapping[str, Any], progress: Progress, objective: Objective, space: Space
) -> Any:
    """Return Tune's scheduler `name` for a study.

    Raises:
        SpecError: an unknown name or option, or a value that Tune refuses.
        Unsupported: a space that the scheduler cannot honour.
    """
    kind = SCHEDULERS.load(name)
    from ray.tune.error import TuneError

    known = set(inspect.signature(kind.__init__).parameters) - _OURS
    for option in options:
        if option not in known:
            raise SpecError(
                f"scheduler {name!r} has no option {option!r}; have: {', '.join(sorted(known))}."
                f"{nearest(option, known)}"
            )
    settings: dict[str, Any] = {
        "time_attr": progress.unit, "metric": objective.metric, "mode": objective.mode,
    }  # fmt: skip
    if "max_t" in known:
        settings["max_t"] = progress.longest
    if "stop_last_trials" in known:
        settings["stop_last_trials"] = False  # one that comes to its end has not been stopped
    if name == "median_stopping":
        settings["grace_period"] = 1
    if name == "pbt":
        settings |= {"perturbation_interval": max(1, progress.longest // 5), "log_config": False}
        settings |= _exploring(space)
    try:
        return kind(**settings | dict(options))
    except (AssertionError, TypeError, ValueError, TuneError) as error:
        raise SpecError(f"scheduler {name!r} with {dict(options)}: {error}") from error


def _exploring(space: Space) -> dict[str, Any]:
    """Return how PBT changes parameters: its own steps, brought back into each parameter's range."""
    if space.conditional or space.constrained:
        raise Unsupported(
            "scheduler 'pbt' changes parameters one by one, so that conditions and constraints would not be "
            "kept; drop `when` and `constraints`, or use asha"
        )

    def explore(config: dict[str, Any]) -> dict[str, Any]:
        params = {name: _inside(space.parameters[name], value) for name, value in config["params"].items()}
        return config | {"params": params}

    values = {name: _draw(parameter) for name, parameter in space.parameters.items()}
    return {"hyperparam_mutations": {"params": values}, "custom_explore_fn": explore}


def _inside(parameter: Any, value: Any) -> Any:
    """Return the value nearest to one that a number parameter may have left the range with."""
    if parameter.contains(value):
        return value
    return parameter.decode(parameter.encode(min(max(value, parameter.low), parameter.high)))


def _draw(parameter: Parameter) -> Any:
    """Return the values of a listed parameter, which PBT steps through, or a function that draws one."""
    listed = getattr(parameter, "choices", None)
    return list(listed) if listed else lambda: parameter.decode(random.random())  # PBT has no generator


def needs_checkpoints(scheduler: Any) -> bool:
    """Return whether a scheduler pauses trials, or has one go on from another's state."""
    return type(scheduler).__name__ in ("HyperBandScheduler", "PopulationBasedTraining")


@dataclass(eq=False)
class _Past:
    """Stands for a trial of an earlier attempt; schedulers ask no more of one that has ended."""

    trial_id: str


def remind(scheduler: Any, ended: Sequence[Trial]) -> None:
    """Have a scheduler know the reports of trials that ended before the driver did.

    ASHA and median stopping compare with them. HyperBand and PBT begin anew: they hold trials that run,
    and those are run again.
    """
    kind = type(scheduler).__name__
    for trial in ended:
        past = _Past(f"past-{trial.number}")
        if kind == "AsyncHyperBandScheduler":
            scheduler.on_trial_add(None, past)
            for _, metrics in trial.reports:
                scheduler.on_trial_result(None, past, metrics)
        elif kind == "MedianStoppingRule":
            for _, metrics in trial.reports:
                scheduler.on_trial_complete(None, past, metrics)
