"""The contract of searchers: ask for a suggestion, tell what came of it.

A searcher is a pure state machine. `ask` gives the next suggestion, which is then pending; `tell` gives
its objectives, smaller is better. What it suggests depends only on its arguments and on the order of
these calls: randomness comes from (seed, number). So a log of asks and tells is enough to rebuild it,
by `restore` instead of `ask`, without computing a suggestion again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from raymill.config import Spec, parse
from raymill.errors import InvalidInput, SpecError, Unsupported
from raymill.search.parameters import identity
from raymill.search.space import Params, Space

Values = tuple[float, ...]
"""Objectives, each to be minimised."""


@dataclass(frozen=True)
class Suggestion:
    """What a searcher wants tried."""

    number: int
    params: Params


@dataclass(frozen=True)
class Observation:
    """What came of a point."""

    number: int | None
    """The trial; None for one that the searcher learned from elsewhere."""
    params: Params
    values: Values | None
    """None for a trial that failed, or reported a value that is not finite."""


class NoOptions(Spec):
    """A searcher that has no options."""


class Searcher(ABC):
    """Base of all searchers. A new one overrides `suggest`, and `observe` where it keeps state.

    Attributes:
        observations: every observation, in the order told.
        pending: number to params of what was asked and not yet told.
    """

    name: ClassVar[str]
    Options: ClassVar[type[Spec]] = NoOptions
    multi_objective: ClassVar[bool] = False
    """Whether it searches a Pareto front; else more than one objective is refused."""
    learns: ClassVar[bool] = True
    """Whether suggestions depend on results; those of one that does not learn wait for none."""
    finite: ClassVar[bool] = False
    """Whether it runs out of suggestions."""

    def __init__(
        self,
        space: Space,
        *,
        seed: int = 0,
        objectives: int = 1,
        concurrency: int = 1,
        trials: int | None = None,
        first: int = 0,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Prepare a search.

        Args:
            concurrency: how many suggestions are pending at a time; a searcher may plan with it.
            trials: how many suggestions will be asked for, where it is known.
            first: number of the first one; a later stage of a study goes on counting.
            options: the searcher's own settings, by `Options`.

        Raises:
            SpecError: an option or a count breaks a rule.
            Unsupported: the space or the objectives have what this searcher cannot honour.
        """
        for what, value in (("objectives", objectives), ("concurrency", concurrency), ("trials", trials)):
            if value is not None and value < 1:
                raise SpecError(f"{what} must be at least 1, got {value}")
        if objectives > 1 and not self.multi_objective:
            raise Unsupported(
                f"searcher {self.name!r} minimises one objective, got {objectives}; use one that searches a "
                "Pareto front, such as 'genetic' or 'random'"
            )
        self.space, self.seed, self.objectives = space, seed, objectives
        self.concurrency, self.trials, self.first = concurrency, trials, first
        self.options: Any = parse(self.Options, options or {}, source=f"options of searcher {self.name!r}")
        self.observations: list[Observation] = []
        self.pending: dict[int, Params] = {}
        self.next_number = first
        self.prepare()

    def prepare(self) -> None:  # noqa: B027 - optional
        """Check the space and set up state; raise Unsupported, by name, for what cannot be honoured."""

    @abstractmethod
    def suggest(self, number: int) -> Params | None:
        """Return the params of suggestion `number`, or None when there are no more.

        It must change no state that later suggestions depend on: a restored searcher skips it.
        """

    def observe(self, observation: Observation) -> None:  # noqa: B027 - optional
        """Take in an observation, which is already the last of `observations`."""

    def accept(self, number: int, params: Params) -> None:  # noqa: B027 - optional
        """Note that suggestion `number` is pending; called after `suggest`, and by `restore` without it."""

    def ask(self) -> Suggestion | None:
        """Return the next suggestion, or None when there are no more. The space's defaults come first."""
        number = self.next_number
        if number < len(self.space.defaults):
            params: Params | None = self.space.complete(self.space.defaults[number])
        else:
            params = self.suggest(number)
        if params is None:
            return None
        self.restore(number, params)
        return Suggestion(number, params)

    def restore(self, number: int, params: Params) -> None:
        """Take a suggestion that was made before as asked, instead of asking."""
        self.next_number = max(self.next_number, number + 1)
        self.pending[number] = params
        self.accept(number, params)

    def tell(self, number: int, values: float | Sequence[float] | None) -> None:
        """Give the objectives of a pending suggestion; None where it failed.

        A value that is not finite counts as a failure.

        Raises:
            InvalidInput: no such suggestion is pending, or the number of values is wrong.
        """
        if number not in self.pending:
            raise InvalidInput(f"trial {number} is not pending; pending: {sorted(self.pending)}")
        found = self._values(values)
        self._take(Observation(number, self.pending.pop(number), found))

    def learn(self, params: Params, values: float | Sequence[float] | None) -> None:
        """Give an observation from elsewhere, such as an earlier study, of the same space.

        Raises:
            InvalidInput: the point lies outside the space.
        """
        self.space.check(params)
        self._take(Observation(None, dict(params), self._values(values)))

    def rng(self, number: int, *stream: int) -> np.random.Generator:
        """Return the random numbers of one suggestion."""
        return np.random.default_rng([self.seed, number, *stream])

    def _take(self, observation: Observation) -> None:
        self.observations.append(observation)
        self.observe(observation)

    def _values(self, values: float | Sequence[float] | None) -> Values | None:
        if values is None:
            return None
        found = tuple(float(value) for value in (values if isinstance(values, Sequence) else (values,)))
        if len(found) != self.objectives:
            raise InvalidInput(f"{self.objectives} objectives are searched, got {len(found)} values")
        return found if np.isfinite(found).all() else None


def key(params: Params) -> str:
    """Return what two equal points have in common."""
    return identity(params)
