"""A steady-state genetic algorithm over mixed and conditional spaces.

Every result enters the population at once and the worst leaves it (elitism), so parallel workers never
wait for a generation. Parents are chosen by rank; ordered parameters recombine by a blend that leans
towards the better parent, unordered ones are inherited from either; mutation is normal with a step size
that follows its success. Several objectives are ranked by fronts and crowding (NSGA-II, Deb et al. 2002).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from raymill.config import Spec
from raymill.search.base import Observation, Searcher, key
from raymill.search.pareto import best_first, front
from raymill.search.space import Params, move_unit

# D = unit coordinates, P = population

_ATTEMPTS = 50
_TARGET_SUCCESS = 0.2


class GeneticOptions(Spec):
    """Options of `genetic`."""

    population: int | None = Field(default=None, ge=2)
    """Survivors; default: 6 for one objective, 20 for several."""
    start: int | None = Field(default=None, ge=2)
    """Random individuals before the first child; default: 4 + the number of parameters, at most 16."""
    mutation: float = Field(default=0.2, gt=0, le=1)
    """Standard deviation of the first mutations, in unit coordinates."""


@dataclass(frozen=True)
class _Individual:
    unit_D: np.ndarray
    values: tuple[float, ...]


class GeneticSearcher(Searcher):
    """Breeds one child a suggestion from the survivors of all that was observed."""

    name = "genetic"
    Options = GeneticOptions
    multi_objective = True

    def prepare(self) -> None:
        several = self.objectives > 1
        self._size = self.options.population or (20 if several else 6)
        self._start = self.options.start or (20 if several else min(4 + self.space.dimension, 16))
        self._population: list[_Individual] = []
        self._parents: dict[int, tuple[float, ...]] = {}
        self._tried: set[str] = set()
        self._scale, self._success = self.options.mutation, _TARGET_SUCCESS

    def suggest(self, number: int) -> Params:
        rng = self.rng(number)
        seen = len(self.observations) + len(self.pending)
        if len(self._population) < 2 or seen < self._start:
            return self.space.sample(rng)
        for attempt in range(_ATTEMPTS):
            child = self.space.decode(self._child(rng, 1 + attempt / 10))
            if key(child) not in self._tried and self.space.feasible(child):
                return child
        return self.space.neighbour(self.space.decode(self._population[0].unit_D), rng, scale=0.1)

    def accept(self, number: int, params: Params) -> None:
        self._tried.add(key(params))
        if self._population and len(self.observations) >= self._start:
            self._parents[number] = self._population[0].values

    def observe(self, observation: Observation) -> None:
        self._tried.add(key(observation.params))
        before = None if observation.number is None else self._parents.pop(observation.number, None)
        if before is not None:
            self._adapt(observation.values, before)
        if observation.values is None:
            return
        unit_D = self.space.encode(observation.params)
        fill_D = self._population[0].unit_D if self._population else np.full(len(unit_D), 0.5)
        individual = _Individual(np.where(np.isnan(unit_D), fill_D, unit_D), observation.values)
        everyone = [*self._population, individual]
        order = best_first(np.array([one.values for one in everyone]))
        self._population = [everyone[at] for at in order[: self._size]]

    def _adapt(self, values: tuple[float, ...] | None, before: tuple[float, ...]) -> None:
        """Mutate further while children beat the best, and less while they do not."""
        if values is None:
            succeeded = False
        elif self.objectives == 1:
            succeeded = values < min(before, self._population[0].values)
        else:
            everyone = np.array([*(one.values for one in self._population), values])
            succeeded = bool(front(everyone)[-1])
        self._success += (succeeded - self._success) / 12
        damping = 1 + self.space.dimension / 2
        change = (self._success - _TARGET_SUCCESS) / (1 - _TARGET_SUCCESS) / damping
        self._scale = min(max(self._scale * math.exp(change), 1e-7), 0.5)

    def _child(self, rng: np.random.Generator, wider: float) -> np.ndarray:
        """Return unit coordinates [D] of a child of two survivors."""
        count = len(self._population)
        first, second = sorted(int(count * rng.random() ** 3) for _ in range(2))
        if first == second:
            second = int(rng.integers(count))
        best_D, other_D = self._population[first].unit_D, self._population[second].unit_D
        scale = self._scale * wider
        blend = rng.normal(0.0, 0.3)
        steps_D = blend * (best_D - other_D) + scale * rng.normal(size=len(best_D))
        child_D = best_D + steps_D
        inherit_D = rng.random(len(best_D)) < 0.7
        mutate_D = rng.random(len(best_D)) < max(scale, 1 / len(best_D)) / 2
        for at, parameter in enumerate(self.space.coordinates):
            if parameter.ordered:
                child_D[at] = min(max(float(child_D[at]), 0.0), 1.0)  # optima on the border are common
            else:
                child_D[at] = best_D[at] if inherit_D[at] else other_D[at]
                if mutate_D[at]:
                    child_D[at] = move_unit(parameter, float(child_D[at]), rng, scale)
        return np.asarray(child_D)
