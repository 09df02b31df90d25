"""A steady-state genetic algorithm over mixed and conditional spaces.

Every result enters the population at once and the worst leaves it (elitism), so parallel workers never
wait for a generation. A child lies on the line through two survivors chosen by rank, between them or
beyond, or at the rank-weighted mean of the best (intermediate recombination, Beyer and Schwefel 2002);
coordinates of few values are inherited one by one. A few children lie where a quadratic model of the values
around the best survivor is lowest. Mutation is normal, its size follows its success, its
shape the steps that helped (rank-one update, Hansen and Ostermeier 2001) and the survivors' scatter.
Several objectives are ranked by fronts and crowding (NSGA-II, Deb et al. 2002).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from raymill.config import Spec
from raymill.search.base import Observation, Searcher, key
from raymill.search.pareto import best_first, front
from raymill.search.quadratic import RADII, last_round, lowest
from raymill.search.space import Params, move_unit

# D = unit coordinates, P = population

_ATTEMPTS = 50
_TARGET_SUCCESS = 0.2
_FEW = 20
"""Coordinates of at most so many values are inherited and moved value by value."""
_INHERIT, _MOVE, _ONLY_FEW = 0.5, 0.1, 0.3
"""Chance that such a coordinate comes from another survivor, that it moves, that nothing else does."""
_MEAN, _MEAN_OF, _BLEND = 0.5, 3, 0.4
_SCATTERED = 0.5
"""Share of mutations that lean to the survivors' scatter."""
_PATH = 0.5
"""Weight of the newest helpful step in the path of such steps."""
_MODEL_EVERY, _MODEL_EVERY_PARALLEL = 12, 4
"""One child in so many comes from the quadratic model."""


class GeneticOptions(Spec):
    """Options of `genetic`."""

    population: int | None = Field(default=None, ge=2)
    """Survivors; default: 5 for one objective, 20 for several."""
    start: int | None = Field(default=None, ge=2)
    """Individuals before the first child, the middle of the space and random ones; default: 7 or 20."""
    mutation: float = Field(default=0.2, gt=0, le=1)
    """Standard deviation of the first mutations, in unit coordinates."""


@dataclass(frozen=True)
class _Individual:
    unit_D: np.ndarray
    values: tuple[float, ...]


@dataclass(frozen=True)
class _Bred:
    """How things stood when a child was bred."""

    best: _Individual
    scale: float


class GeneticSearcher(Searcher):
    """Breeds one child a suggestion from the survivors of all that was observed."""

    name = "genetic"
    Options = GeneticOptions
    multi_objective = True

    def prepare(self) -> None:
        several, dimension = self.objectives > 1, self.space.dimension
        self._size = self.options.population or (20 if several else 5)
        self._start = self.options.start or (20 if several else 7)
        self._mean = 0.0 if several else _MEAN  # the middle of a front need not be good
        self._few_D = np.array([0 < (each.levels or 0) <= _FEW for each in self.space.coordinates])
        self._few_D |= np.array([not each.ordered for each in self.space.coordinates])
        self._population: list[_Individual] = []
        self._bred: dict[int, _Bred] = {}
        self._tried: set[str] = set()
        self._units: list[np.ndarray] = []
        self._found: list[float] = []
        self._scale, self._success = self.options.mutation, _TARGET_SUCCESS
        self._path_D, self._covariance_DD = np.zeros(dimension), np.eye(dimension)
        self._shape_DD = np.eye(dimension)

    def suggest(self, number: int) -> Params:
        rng = self.rng(number)
        if number == self.first and not self._population:
            middle = self.space.decode(np.full(self.space.dimension, 0.5))
            if self.space.feasible(middle) and key(middle) not in self._tried:
                return middle
        if not self._breeds(len(self.observations) + len(self.pending)):
            return self.space.sample(rng)
        modelled = self._modelled(number)
        if modelled is not None and key(modelled) not in self._tried and self.space.feasible(modelled):
            return modelled
        for attempt in range(_ATTEMPTS):
            child = self.space.decode(self._child(rng, 1 + attempt / 10))
            if key(child) not in self._tried and self.space.feasible(child):
                return child
        return self.space.neighbour(self.space.decode(self._population[0].unit_D), rng, scale=0.1)

    def _modelled(self, number: int) -> Params | None:
        """Return the child where the model is lowest, at the best survivor's values of few-valued ones."""
        last = last_round(number, self.first, self.trials, self.concurrency)
        every = _MODEL_EVERY if self.concurrency == 1 else _MODEL_EVERY_PARALLEL
        turn, rest = divmod(number, every)
        if self.objectives > 1 or self._few_D.all() or (rest != every - 1 and not last):
            return None
        free_D, best_D = ~self._few_D, self._population[0].unit_D
        known_ND = np.array(self._units)
        alike_N = (known_ND[:, self._few_D] == best_D[self._few_D]).all(axis=1)
        basis_DD = self._scale * self._shape_DD[np.ix_(free_D, free_D)]
        radius = RADII[(number if last else turn) % len(RADII)]
        found_D = lowest(
            known_ND[alike_N][:, free_D], np.array(self._found)[alike_N], best_D[free_D], basis_DD, radius
        )
        if found_D is None:
            return None
        child_D = best_D.copy()
        child_D[free_D] = np.clip(found_D, 0.0, 1.0)
        return self.space.decode(child_D)

    def accept(self, number: int, params: Params) -> None:
        self._tried.add(key(params))
        if self._breeds(len(self.observations) + len(self.pending) - 1):
            self._bred[number] = _Bred(self._population[0], self._scale)

    def _breeds(self, asked: int) -> bool:
        return len(self._population) >= 2 and asked >= self._start

    def observe(self, observation: Observation) -> None:
        self._tried.add(key(observation.params))
        unit_D = self.space.encode(observation.params)
        fill_D = self._population[0].unit_D if self._population else np.full(len(unit_D), 0.5)
        unit_D = np.where(np.isnan(unit_D), fill_D, unit_D)
        self._units.append(unit_D)
        self._found.append(math.inf if observation.values is None else observation.values[0])
        bred = None if observation.number is None else self._bred.pop(observation.number, None)
        if bred is not None:
            self._adapt(bred, unit_D, observation.values)
        if observation.values is not None:
            everyone = [*self._population, _Individual(unit_D, observation.values)]
            order = best_first(np.array([one.values for one in everyone]))
            self._population = [everyone[at] for at in order[: self._size]]

    def _adapt(self, bred: _Bred, unit_D: np.ndarray, values: tuple[float, ...] | None) -> None:
        """Mutate further while children beat the best, less while they do not, and along what helped."""
        if values is None:
            succeeded = False
        elif self.objectives == 1:
            succeeded = values < min(bred.best.values, self._population[0].values)
        else:
            everyone = np.array([*(one.values for one in self._population), values])
            succeeded = bool(front(everyone)[-1])
        dimension = self.space.dimension
        self._success += (succeeded - self._success) / 12
        change = (self._success - _TARGET_SUCCESS) / (1 - _TARGET_SUCCESS) / (1 + dimension / 2)
        self._scale = min(max(self._scale * math.exp(change), 1e-7), 0.5)
        step_D = np.where(self._few_D, 0.0, unit_D - bred.best.unit_D) / bred.scale
        length = float(np.linalg.norm(step_D))
        if succeeded and length > 0 and self.objectives == 1:
            self._shape(step_D * min(1.0, 2 * math.sqrt(dimension) / length))

    def _shape(self, step_D: np.ndarray) -> None:
        """Make mutations along a step that helped, and the path of those before it, more likely."""
        self._path_D = (1 - _PATH) * self._path_D + math.sqrt(_PATH * (2 - _PATH)) * step_D
        rate = 4 / (len(step_D) ** 2 + 6)
        outer_DD = np.outer(self._path_D, self._path_D)
        self._covariance_DD = (1 - rate) * self._covariance_DD + rate * outer_DD
        variance_D, axes_DD = np.linalg.eigh(self._covariance_DD)
        self._shape_DD = (axes_DD * np.sqrt(np.maximum(variance_D, 1e-10))) @ axes_DD.T

    def _child(self, rng: np.random.Generator, wider: float) -> np.ndarray:
        """Return unit coordinates [D] of a child of survivors."""
        first, second = sorted((self._by_rank(rng), self._by_rank(rng)))
        if first == second:
            second = int(rng.integers(len(self._population)))
        best_D, other_D = self._population[first].unit_D, self._population[second].unit_D
        scale, mutation_D = self._scale * wider, self._mutation(rng)
        if rng.random() < self._mean:
            middle_D = self._middle()
        else:
            middle_D = best_D + rng.normal(0.0, _BLEND) * (best_D - other_D)
        child_D = np.clip(middle_D + scale * mutation_D, 0.0, 1.0)  # optima on the border are common
        if self._few_D.any():
            if rng.random() < _ONLY_FEW:
                child_D = best_D.copy()
            for at in np.flatnonzero(self._few_D):
                other_D = self._population[self._by_rank(rng)].unit_D
                start = float(other_D[at] if rng.random() < _INHERIT else best_D[at])
                child_D[at] = self._near(int(at), start, rng, scale, _MOVE * wider)
        return np.asarray(child_D)

    def _by_rank(self, rng: np.random.Generator) -> int:
        return int(len(self._population) * rng.random() ** 3)

    def _middle(self) -> np.ndarray:
        best_PD = np.array([one.unit_D for one in self._population[:_MEAN_OF]])
        weight_P = np.arange(1, len(best_PD) + 1) ** -1.5
        return np.asarray(weight_P @ best_PD / weight_P.sum())

    def _mutation(self, rng: np.random.Generator) -> np.ndarray:
        """Return a step [D] of about unit variance a coordinate."""
        step_D = self._shape_DD @ rng.normal(size=self.space.dimension)
        if rng.random() < _SCATTERED:
            units_PD = np.array([one.unit_D for one in self._population])
            along_D = rng.normal(size=len(units_PD)) @ (units_PD - units_PD[0])
            length = float(np.linalg.norm(along_D))
            if length > 1e-12:
                along_D *= math.sqrt(len(along_D)) * abs(rng.normal()) / length
                step_D = (step_D + along_D) / math.sqrt(2)
        return np.asarray(step_D)

    def _near(self, at: int, unit: float, rng: np.random.Generator, scale: float, chance: float) -> float:
        """Return the coordinate of a value at or near `unit`, of a parameter of few values."""
        parameter = self.space.coordinates[at]
        moves = rng.random() < chance
        if not parameter.ordered:
            return move_unit(parameter, unit, rng, scale) if moves else unit
        levels = parameter.levels or 1
        steps = round(scale * float(rng.normal()) * levels)
        if not steps and moves:
            steps = 1 if rng.random() < 0.5 else -1
        if not 0 <= unit + steps / levels <= 1:
            steps = -steps
        return min(max(unit + steps / levels, 0.0), 1.0)
