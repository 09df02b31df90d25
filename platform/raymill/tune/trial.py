"""One trial: the study's training with the trial's parameters, on the encoder that all trials share."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from raymill.config import parse, put
from raymill.train import STRATEGIES
from raymill.train.base import TrainJob, Trial
from raymill.train.spec import TrainSpec

if TYPE_CHECKING:
    from raymill.search.record import Trial as SearchTrial
    from raymill.search.tune import Running


@dataclass(frozen=True)
class TrialBase:
    """What the trials of a study share; goes to them through the object store."""

    study: str
    document: Mapping[str, Any]
    """The train spec of trials, before a trial's parameters."""
    job: TrainJob
    """With datasets and encoder; the spec in it is that of no trial."""
    every_rounds: int


def train_spec(document: Mapping[str, Any], params: Mapping[str, Any], source: str = "spec") -> TrainSpec:
    """Return the train spec with parameters set by their dotted keys.

    Raises:
        SpecError: a key or a value that the train spec refuses.
    """
    return parse(TrainSpec, with_params(document, params), source)


def with_params(document: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a spec's document with values at dotted keys."""
    changed = copy.deepcopy(dict(document))
    for key, value in params.items():
        put(changed, key, value)
    return changed


def run_trial(base: TrialBase, running: Running) -> dict[str, float]:
    """Train and return the last measurement. Raises what training raises."""
    job = replace(
        base.job,
        spec=train_spec(base.document, running.params),
        run=f"{base.study}-trial-{running.number}",
        trial=Trial(running.report, base.every_rounds, running.resume),
    )
    outcome = STRATEGIES.load(job.spec.strategy)().fit(job)
    return outcome.history[-1]


def best_document(study: str, document: Mapping[str, Any], best: SearchTrial) -> dict[str, Any]:
    """Return the train spec's document with the parameters of a trial, named as their source."""
    return with_params(document, {**best.params, "study": f"{study}/{best.number}"})
