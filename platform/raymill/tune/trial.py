"""One trial: the study's training with the trial's parameters, on the encoder that all trials share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from raymill.config import parse, with_values
from raymill.flavors.options import Best, EarlyStopping
from raymill.scratch import scratch
from raymill.train import STRATEGIES
from raymill.train.base import Outcome, TrainJob, Trial
from raymill.train.scoring import evaluate_files, read_files
from raymill.train.spec import TrainSpec

if TYPE_CHECKING:
    from raymill.search.tune import Running


@dataclass(frozen=True)
class TrialBase:
    """What the trials of a study share; goes to them through the object store."""

    runs: str
    """What the names of the trials' runs begin with; a study of the same name begun anew has another."""
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
    return parse(TrainSpec, with_values(document, params), source)


def run_trial(base: TrialBase, running: Running) -> dict[str, float]:
    """Train and return the metrics of the model, over all validation rows. Raises what training raises."""
    job = replace(
        base.job,
        spec=train_spec(base.document, running.params),
        run=f"{base.runs}{running.number}",
        trial=Trial(running.report, base.every_rounds, running.resume),
    )
    outcome = STRATEGIES.load(job.spec.strategy)().fit(job)
    found = kept_entry(job.spec, outcome.history)
    measured = any(name.startswith("validation_") for name in found)
    return found if measured else found | _measure(job, outcome)


def kept_entry(spec: TrainSpec, history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the measurement of the model that is kept: the best under early stopping, else the last."""
    rule: EarlyStopping | None = getattr(spec.flavor_config(), "early_stopping", None)
    kept = history[-1]
    if rule is not None:
        best = Best(rule, spec.task)
        for entry in history:
            kept = entry if best.take(entry) else kept
    return dict(kept)


def _measure(job: TrainJob, outcome: Outcome) -> dict[str, float]:
    """Return the exact metrics of a model whose trainer does not measure while it trains."""
    with scratch("trial") as folder:
        job.flavor.save(outcome.model, folder)
        files, validation = read_files(folder), job.snapshots["validation"]
        found = evaluate_files(files, job.spec.flavor, job.encoder, validation, job.spec.fewest_workers)
    return {f"validation_{name}": value for name, value in found.items()}
