"""The tune spec: what `jobs/tune.py --config` reads."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from raymill.config import Spec
from raymill.search import Space
from raymill.search.header import Stage

Mode = Literal["max", "min"]


class BaseSpec(Spec):
    """The training that is tuned."""

    spec: str
    """Train spec file; relative to the job's working directory."""
    set: dict[str, Any] = {}
    """Values over the file's, by dotted keys: {flavor: xgboost}."""
    trials: dict[str, Any] = {}
    """Further values in trials only, such as a sample of the rows; the best is trained without them."""


class SchedulerSpec(Spec):
    """Which trials stop early."""

    name: str
    """asha, hyperband, median_stopping or pbt, of Ray Tune."""
    options: dict[str, Any] = {}
    """The scheduler's own settings; it counts epochs or boosting rounds."""
    every_rounds: int = Field(default=10, ge=1)
    """Boosting rounds between two measurements of a trial."""


class SearchSpec(Spec):
    """How the space is searched."""

    trials: int = Field(default=32, ge=1)
    """Over all stages; what the stages before it leave goes to the last."""
    seconds: float | None = Field(default=None, gt=0)
    """No trial begins after so many seconds of search, those of earlier submissions included."""
    concurrency: int | None = Field(default=None, ge=1)
    """Trials that run at once; default: as many as the cluster holds, at most 8."""
    order: Literal["logical", "arrival"] = "logical"
    """logical: suggestions do not depend on which trial ends first; a worker may wait for the oldest
    trial. arrival: nobody waits, and a rerun may suggest otherwise."""
    slack: int | None = Field(default=None, ge=0)
    """With order logical: how many trials more than run at once may be ahead of the oldest one that runs;
    default: half as many as run at once. More slack waits less, and learns from older results."""
    seed: int = Field(default=0, ge=0)
    stages: tuple[Stage, ...] = Field(default=(Stage(searcher="bayesian"),), min_length=1)
    """Searchers one after another, each starting from the observations of those before it."""
    scheduler: SchedulerSpec | None = None
    retries: int = Field(default=2, ge=0)
    """Times a trial is run again whose process died; one whose training raises fails at once."""
    from_studies: tuple[str, ...] = ()
    """Names of earlier studies whose observations the searchers start from."""


class TuneSpec(Spec):
    """One study: a training, a space of its hyper-parameters, and how it is searched."""

    study: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    """Name; submitting it again goes on with an unfinished study."""
    studies: str = "studies"
    """Where studies are kept."""
    train: BaseSpec
    objective: dict[str, Mode]
    """Metric that training reports to "max" or "min"; the first decides, further ones give a Pareto front."""
    space: Space
    """Parameters named by the dotted keys of the train spec that they set."""
    search: SearchSpec = SearchSpec()
    retrain: bool = True
    """Train the best on all the training data, evaluate and publish it."""

    @model_validator(mode="after")
    def _an_objective(self) -> TuneSpec:
        if not self.objective:
            raise ValueError("an objective is needed, such as {validation_auc: max}")
        return self
