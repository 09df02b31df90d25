"""Simulated annealing whose neighbourhood adapts: step size by success, shape by the moves that helped.

Moves are normal steps with a covariance that is learned from accepted moves and a step size that keeps
one move in five or six successful (Igel, Suttorp, Hansen 2006); a worse point is accepted with chance
exp(-delta / T) (Kirkpatrick et al. 1983), T falling geometrically. One chain, whatever the concurrency:
suggestions that are pending at a time are moves from the same point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from raymill.config import Spec
from raymill.search.base import Observation, Searcher
from raymill.search.space import Params, move_unit, reflect

# D = unit coordinates

_TARGET_SUCCESS = 2 / 11
_ATTEMPTS = 50
_START = 0.25


class AnnealingOptions(Spec):
    """Options of `annealing`."""

    temperature: float = Field(default=0.2, ge=0)
    """At the start, in units of the median worsening of a move."""
    cooling: float = Field(default=0.9, gt=0, lt=1)
    """What the temperature is multiplied by after each result."""
    start: int | None = Field(default=None, ge=1)
    """Random points before the first move; default: 4 + the number of parameters, at most 12."""
    smallest_step: float = Field(default=1e-6, gt=0, lt=1)
    """The chain restarts elsewhere when its step, in unit coordinates, has become smaller."""


@dataclass
class _Move:
    origin_D: np.ndarray
    """Where the chain was when it was proposed."""
    value: float
    epoch: int
    """The chain's restarts by then."""


class AnnealingSearcher(Searcher):
    """Anneals one chain. Unordered parameters move to another value, ordered ones nearby."""

    name = "annealing"
    Options = AnnealingOptions

    def prepare(self) -> None:
        self._moves: dict[int, _Move] = {}
        self._start = self.options.start or min(4 + self.space.dimension, 12)
        self._ordered_D = np.array([parameter.ordered for parameter in self.space.coordinates])
        self._restarts, self._temperature = 0, self.options.temperature
        self._worsenings: list[float] = []
        self._begin()

    def _begin(self) -> None:
        self._at_D: np.ndarray | None = None
        self._value = math.inf
        self._seen = 0
        self._scale = _START
        self._success = _TARGET_SUCCESS
        self._covariance_DD = np.eye(self.space.dimension)

    def suggest(self, number: int) -> Params:
        rng = self.rng(number)
        if self._at_D is None or self._seen + self._waiting() < self._start:
            return self.space.sample(rng)
        factor_DD = np.linalg.cholesky(self._covariance_DD)
        here = self.space.decode(self._at_D)
        for attempt in range(_ATTEMPTS):
            moved = self.space.decode(self._propose(self._at_D, factor_DD, rng, attempt))
            if moved != here and self.space.feasible(moved):
                return moved
        return self.space.neighbour(here, rng, scale=max(self._scale, 0.01))

    def _waiting(self) -> int:
        return sum(move.epoch == self._restarts for move in self._moves.values())

    def _propose(
        self, at_D: np.ndarray, factor_DD: np.ndarray, rng: np.random.Generator, attempt: int
    ) -> np.ndarray:
        scale = self._scale * (1 + attempt / 10)  # a step too small for any level grows until it moves
        unit_D = at_D + scale * (factor_DD @ rng.normal(size=len(at_D)))
        flip_D = rng.random(len(at_D)) < max(scale, 1 / len(at_D)) / 2
        for at, parameter in enumerate(self.space.coordinates):
            if parameter.ordered:
                unit_D[at] = reflect(float(unit_D[at]))
            else:
                unit_D[at] = move_unit(parameter, float(at_D[at]), rng, scale) if flip_D[at] else at_D[at]
        return unit_D

    def accept(self, number: int, params: Params) -> None:
        origin_D = np.full(self.space.dimension, np.nan) if self._at_D is None else self._at_D
        self._moves[number] = _Move(origin_D, self._value, self._restarts)

    def observe(self, observation: Observation) -> None:
        number = observation.number
        move = None if number is None else self._moves.pop(number, None)
        if move is not None and move.epoch == self._restarts:
            self._seen += 1
        value = math.inf if observation.values is None else observation.values[0]
        here_D = self._filled(observation.params)
        random_start = self._seen <= self._start or move is None or move.epoch != self._restarts
        if random_start:
            if value < self._value:
                self._at_D, self._value = here_D, value
            return
        assert move is not None
        self._temperature *= self.options.cooling
        self._adapt(move, here_D, value)
        if value < self._value or self._accepts_worse(value, number or 0):
            self._at_D, self._value = here_D, value
        if self._scale < self.options.smallest_step:
            self._restarts += 1
            self._begin()

    def _accepts_worse(self, value: float, number: int) -> bool:
        delta = value - self._value
        if not math.isfinite(delta):
            return False
        self._worsenings.append(delta)
        unit = float(np.median(self._worsenings[-30:]))
        chance = math.exp(-delta / (self._temperature * unit)) if self._temperature * unit > 0 else 0.0
        return bool(self.rng(number, 1).random() < chance)

    def _adapt(self, move: _Move, here_D: np.ndarray, value: float) -> None:
        """Make steps longer after successes and shorter after failures, and lean towards what helped."""
        dimension = self.space.dimension
        succeeded = value < min(move.value, self._value)
        self._success += (succeeded - self._success) / 12
        damping = 1 + dimension / 2
        exponent = (self._success - _TARGET_SUCCESS) / (1 - _TARGET_SUCCESS) / damping
        if succeeded and not np.isnan(move.origin_D).any():
            step_D = np.where(self._ordered_D, (here_D - move.origin_D) / self._scale, 0.0)
            rate = 2 / (dimension**2 + 6)
            longest = math.sqrt(3 * dimension)
            step_D *= min(1.0, longest / max(float(np.linalg.norm(step_D)), 1e-12))
            self._covariance_DD = (1 - rate) * self._covariance_DD + rate * np.outer(step_D, step_D)
        self._scale = min(self._scale * math.exp(exponent), 0.5)

    def _filled(self, params: Params) -> np.ndarray:
        """Return the point's coordinates, those of absent parameters as the chain has them."""
        unit_D = self.space.encode(params)
        before_D = np.full(len(unit_D), 0.5) if self._at_D is None else self._at_D
        return np.where(np.isnan(unit_D), before_D, unit_D)
