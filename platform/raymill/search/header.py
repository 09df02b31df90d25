"""What a study is: everything that its suggestions depend on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from raymill.config import Spec
from raymill.errors import SpecError
from raymill.search import SEARCHERS
from raymill.search.base import Searcher, Values
from raymill.search.space import Space


class Objective(Spec):
    """A metric that trials report, and which way is better."""

    metric: str
    mode: Literal["max", "min"]

    def minimised(self, value: float) -> float:
        """Return the value such that smaller is better."""
        return -value if self.mode == "max" else value


class Stage(Spec):
    """One searcher's share of a study; it sees the observations of all stages before it."""

    searcher: str
    options: dict[str, Any] = {}
    trials: int | None = Field(default=None, ge=1)
    """How many trials; null: until the searcher has no more, such as all of a grid."""


class Budget(Spec):
    """When a study stops asking, beside its stages' trials. Running trials end undisturbed."""

    seconds: float | None = Field(default=None, gt=0)
    """Wall time during which a driver had the study open."""
    cost: float | None = Field(default=None, gt=0)
    """Sum of the trials' costs."""
    cost_metric: str | None = None
    """The metric that is a trial's cost; null: its seconds."""


class KnownPoint(Spec):
    """An observation from elsewhere, to begin with."""

    params: dict[str, Any]
    metrics: dict[str, float]


class StudyHeader(Spec):
    """Everything that a study's suggestions depend on, and what it was started for."""

    space: Space
    stages: tuple[Stage, ...] = Field(min_length=1)
    objectives: tuple[Objective, ...] = Field(min_length=1)
    seed: int = Field(default=0, ge=0)
    concurrency: int = Field(default=1, ge=1)
    """Trials that run at a time."""
    order: Literal["logical", "arrival"] = "logical"
    """logical: suggestions do not depend on which trial ends first; a worker may wait for the oldest
    trial. arrival: nobody waits, and a rerun may suggest otherwise."""
    slack: int = Field(default=0, ge=0)
    """With order logical: how many trials more than run at a time may be ahead of the oldest one whose
    result counts. More slack: less waiting where trials differ in length, and older results."""
    budget: Budget = Budget()
    known: tuple[KnownPoint, ...] = ()
    """Observations of earlier studies (warm start)."""
    meta: dict[str, Any] = {}
    """Free; a study opened again must agree in `meta["identity"]` only."""

    @model_validator(mode="after")
    def _usable(self) -> StudyHeader:
        names = [objective.metric for objective in self.objectives]
        if len(set(names)) < len(names):
            raise SpecError(f"objectives must be different metrics, got {names}")
        for number, stage in enumerate(self.stages):
            searcher = self.searcher(number)  # what it cannot honour is refused here
            endless = stage.trials is None and not searcher.finite
            if endless and self.budget.seconds is None and self.budget.cost is None:
                raise SpecError(
                    f"stage {number}: searcher {stage.searcher!r} never runs out of suggestions; give the "
                    "stage `trials`, or the study a budget"
                )
            if endless and number < len(self.stages) - 1:
                raise SpecError(f"stage {number}: give it `trials`, or stage {number + 1} never begins")
        for point in self.known:
            self.space.check(point.params)
        return self

    def searcher(self, stage: int, first: int = 0) -> Searcher:
        """Return a new searcher of a stage whose first suggestion has number `first`.

        Raises:
            SpecError, Unsupported: an unknown searcher or option, or a space that it cannot honour.
        """
        wanted = self.stages[stage]
        return SEARCHERS.load(wanted.searcher)(
            self.space, seed=self.seed, objectives=len(self.objectives), concurrency=self.concurrency,
            trials=wanted.trials, first=first, options=wanted.options,
        )  # fmt: skip

    def values(self, metrics: Mapping[str, float]) -> Values | None:
        """Return the objectives, each to be minimised; None where one is missing or not finite."""
        found = [metrics.get(objective.metric) for objective in self.objectives]
        if any(value is None or not math.isfinite(value) for value in found):
            return None
        return tuple(
            objective.minimised(float(value))
            for objective, value in zip(self.objectives, found, strict=True)
            if value is not None
        )

    def problem(self, metrics: Mapping[str, float]) -> str | None:
        """Return in words why `metrics` are no observation, or None where they are."""
        for objective in self.objectives:
            if objective.metric not in metrics:
                have = ", ".join(sorted(metrics)) or "nothing"
                return f"reported no metric {objective.metric!r}, only: {have}"
            if not math.isfinite(metrics[objective.metric]):
                return f"objective {objective.metric!r} is {metrics[objective.metric]}"
        return None

    def identity(self) -> dict[str, Any]:
        """Return what a study opened again must agree in."""
        shown = self.model_dump(mode="json", exclude={"meta", "budget"})
        return shown | {"meta.identity": self.meta.get("identity")}

    def differences(self, other: StudyHeader) -> Iterator[str]:
        """Yield in words where `other` is another study's header."""
        theirs = other.identity()
        for name, value in self.identity().items():
            if value != theirs[name]:
                yield f"{name} is {theirs[name]!r:.200} there, {value!r:.200} here"
