"""What a study has come to so far, read from its log without any searcher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from raymill.errors import Corrupt, InvalidInput
from raymill.search.header import KnownPoint, StudyHeader
from raymill.search.log import Event
from raymill.search.pareto import front
from raymill.search.space import Params, Space

Status = Literal["running", "complete", "stopped", "failed"]


@dataclass
class Trial:
    """One suggestion and what came of it."""

    number: int
    stage: int
    params: Params
    asked_at: float = 0.0
    """Seconds since the epoch."""
    status: Status = "running"
    """stopped: ended early by a scheduler; its last metrics count."""
    metrics: dict[str, float] = field(default_factory=dict)
    reports: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    """Intermediate metrics: (step, metrics), by step."""
    seconds: float | None = None
    error: str = ""

    @property
    def ended(self) -> bool:
        return self.status != "running"


class Record:
    """All trials of a study, in the order asked."""

    def __init__(self, header: StudyHeader, torn: tuple[str, ...] = ()) -> None:
        self.header = header
        self.torn = torn
        """Events that a writer which died did not finish writing, one sentence each."""
        self.trials: list[Trial] = []
        self.driven_seconds = 0.0
        """Wall time of ended sessions and of the last one up to its last event."""
        self.last_at = 0.0

    def apply(self, event: Event) -> None:
        """Take in the next event of the log. Raises Corrupt where it does not follow."""
        kind, at = event["event"], float(event["at"])
        if kind != "open":
            self.driven_seconds += max(at - self.last_at, 0.0)
        self.last_at = at
        if kind == "ask":
            if event["number"] != len(self.trials):
                raise Corrupt(f"the log asks trial {event['number']} after {len(self.trials)} trials")
            self.trials.append(Trial(event["number"], event["stage"], event["params"], at))
        elif kind == "report":
            reports = dict(self.trials[event["number"]].reports) | {event["step"]: event["metrics"]}
            self.trials[event["number"]].reports = sorted(reports.items())
        elif kind == "tell":
            trial = self.trials[event["number"]]
            trial.status, trial.metrics = event["status"], event["metrics"]
            trial.seconds, trial.error = event["seconds"], event["error"]
            trial.params = event.get("params", trial.params)

    def trial(self, number: int) -> Trial:
        """Return a trial. Raises InvalidInput for one that was never asked."""
        if not 0 <= number < len(self.trials):
            raise InvalidInput(f"trial {number} was never asked; there are {len(self.trials)}")
        return self.trials[number]

    def pending(self) -> list[Trial]:
        """Return the trials that were asked and have not ended."""
        return [trial for trial in self.trials if not trial.ended]

    def counts(self) -> dict[str, int]:
        """Return how many trials have each status."""
        found: dict[str, int] = {"complete": 0, "stopped": 0, "failed": 0, "running": 0}
        for trial in self.trials:
            found[trial.status] += 1
        return found

    def cost(self) -> float:
        """Return what the ended trials cost, by the header's budget."""
        name = self.header.budget.cost_metric
        costs = [trial.seconds if name is None else trial.metrics.get(name) for trial in self.trials]
        return float(sum(cost for cost in costs if cost is not None and np.isfinite(cost)))

    def best(self) -> Trial | None:
        """Return the best trial by the first objective; of equals the first; None where none succeeded."""
        found = self._successes()
        return min(found, key=lambda pair: pair[1][0])[0] if found else None

    def pareto(self) -> list[Trial]:
        """Return the trials that no other is better than in every objective."""
        found = self._successes()
        if not found:
            return []
        on_front = front(np.array([values for _, values in found]))
        return [trial for (trial, _), on in zip(found, on_front, strict=True) if on]

    def known(self, space: Space | None = None) -> tuple[list[KnownPoint], int]:
        """Return the successful trials as points to begin another study with.

        Those outside `space` (default: the study's own) are left out; their number is the second value.
        """
        space = space or self.header.space
        trials = [trial for trial, _ in self._successes()]
        inside = [trial for trial in trials if space.contains(trial.params)]
        points = [KnownPoint(params=trial.params, metrics=_finite(trial.metrics)) for trial in inside]
        return points, len(trials) - len(inside)

    def _successes(self) -> list[tuple[Trial, tuple[float, ...]]]:
        pairs = [
            (trial, self.header.values(trial.metrics))
            for trial in self.trials
            if trial.status in ("complete", "stopped")
        ]
        return [(trial, values) for trial, values in pairs if values is not None]


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if np.isfinite(value)}
