"""Bayesian optimisation: Gaussian processes over the whole space and in a trust region, by turns.

Most suggestions maximise the expected improvement inside a trust region around the best point (Eriksson
et al. 2019, TuRBO) under a process with a quadratic trend, so that smooth valleys are followed as fast as
by a quadratic model; every fourth one looks at the whole space, with outliers compressed. Pending points
count as observed at what is predicted there (kriging believer, Ginsbourger et al. 2010), so suggestions
made in parallel differ. Failed trials count as bad as the worst that was seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from raymill.config import Spec
from raymill.errors import needs_extra
from raymill.search.base import Observation, Searcher, key
from raymill.search.gp import GaussianProcess, log_expected_improvement
from raymill.search.space import Params

# N = observations, M = candidates, D = unit coordinates

_CANDIDATES, _REFINED, _ROUNDS = 400, 80, 7
_GLOBAL_EVERY = 4
_FIRST_RADIUS, _SMALLEST_RADIUS, _LARGEST_RADIUS = 0.3, 1e-6, 0.5
_MOST_POINTS = 250
_NEARER = (1.0, 1.0, 0.5, 0.25)
"""Share of the radius that suggestions made in parallel look at, in turn: results come late to adapt it."""


class BayesianOptions(Spec):
    """Options of `bayesian`."""

    start: int | None = Field(default=None, ge=2)
    """Points of a Latin hypercube before the first model; default: 3 + the parameters, at most 16."""


@dataclass(frozen=True)
class _Step:
    best: float
    """The best value when it was suggested."""
    center_D: np.ndarray


class BayesianSearcher(Searcher):
    """Suggests where improvement is expected."""

    name = "bayesian"
    Options = BayesianOptions

    def prepare(self) -> None:
        with needs_extra("search"):
            import scipy  # noqa: F401 - refused now and not at the first model
        dimension = self.space.dimension
        self._start = self.options.start or min(3 + dimension, 16)
        self._ordered_D = np.array([parameter.ordered for parameter in self.space.coordinates])
        self._continuous = not self.space.conditional and all(
            parameter.levels is None for parameter in self.space.coordinates
        )
        self._thrift = 4 if self.space.conditional else 1  # conditions are evaluated point by point
        self._radius = _FIRST_RADIUS
        self._steps: dict[int, _Step] = {}
        self._tried: set[str] = set()
        self._units: list[np.ndarray] = []
        self._best, self._best_D = math.inf, np.full(dimension, 0.5)
        rng = np.random.default_rng([self.seed, 0, 1])
        strata = np.stack([rng.permutation(self._start) for _ in range(dimension)], axis=1)
        self._hypercube = (strata + rng.random(strata.shape)) / self._start
        if self.concurrency > 1:
            self._hypercube[0] = 0.5  # no worse than a random one, and steps begin before all are known

    def suggest(self, number: int) -> Params:
        rng = self.rng(number)
        seen = len(self.observations) + len(self.pending)
        succeeded = sum(observation.values is not None for observation in self.observations)
        if seen < self._start or succeeded < 3:
            params = self.space.decode(self._hypercube[(number - self.first) % self._start])
            fresh = key(params) not in self._tried and self.space.feasible(params)
            return params if fresh else self.space.sample(rng)
        x_ND, y_N = np.array(self._units), self._values_N()
        if number % _GLOBAL_EVERY == 0:
            ranked_MD = self._globally(x_ND, y_N, rng)
        else:
            share = _NEARER[number % len(_NEARER)] if self.concurrency > 1 else 1.0
            ranked_MD = self._locally(x_ND, y_N, rng, self._radius * share)
        for unit_D in ranked_MD:
            params = self.space.decode(unit_D)
            if key(params) not in self._tried and self.space.feasible(params):
                return params
        return self.space.sample(rng)

    def accept(self, number: int, params: Params) -> None:
        self._tried.add(key(params))
        if len(self.observations) >= self._start and number % _GLOBAL_EVERY:
            self._steps[number] = _Step(self._best, self._best_D)

    def observe(self, observation: Observation) -> None:
        self._tried.add(key(observation.params))
        unit_D = self._filled(observation.params)
        self._units.append(unit_D)
        value = math.inf if observation.values is None else observation.values[0]
        step = None if observation.number is None else self._steps.pop(observation.number, None)
        if step is not None and not self._best <= value < step.best:  # it helped, and another did more since
            self._resize(value < self._best, float(np.abs(unit_D - step.center_D).max()))
        if value < self._best:
            self._best, self._best_D = value, unit_D

    def _resize(self, succeeded: bool, length: float) -> None:
        """Let the trust region follow the length of steps that help, and shrink when none does."""
        if succeeded:
            self._radius = min(max(2 * length, 0.5 * self._radius), 1.6 * self._radius, _LARGEST_RADIUS)
        else:
            self._radius *= 0.75 ** (1 / max(1.0, self.concurrency / 2.5))
        if self._radius < _SMALLEST_RADIUS:
            self._radius = _FIRST_RADIUS

    def _values_N(self) -> np.ndarray:
        """Return the observed values: float64 [N]; a failure's is the worst."""
        values = [math.nan if one.values is None else one.values[0] for one in self.observations]
        values_N = np.array(values)
        return np.where(np.isnan(values_N), np.nanmax(values_N), values_N)

    def _globally(self, x_ND: np.ndarray, y_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        middle, low = float(np.median(y_N)), float(y_N.min())
        z_N = (y_N - middle) / ((middle - low) or 1.0)
        z_N = np.where(z_N > 0, np.log1p(np.maximum(z_N, 0)), z_N)
        kept = np.argsort(y_N, kind="stable")[:_MOST_POINTS]
        process = GaussianProcess(x_ND[kept], z_N[kept], self._ordered_D)
        low_D, high_D = np.zeros(self.space.dimension), np.ones(self.space.dimension)
        return self._maximise(process, float(z_N.min()), low_D, high_D, rng, lambda x_MD: x_MD)

    def _locally(
        self, x_ND: np.ndarray, y_N: np.ndarray, rng: np.random.Generator, radius: float
    ) -> np.ndarray:
        dimension, center_D = self.space.dimension, self._best_D
        enough = min(max(3 * (dimension + 1) * (dimension + 2) // 4, 2 * dimension + 10), _MOST_POINTS)
        far_N = np.where(self._ordered_D, np.abs(x_ND - center_D), 0.0).max(axis=1)
        kept = np.argsort(far_N, kind="stable")
        kept = kept[: max(enough, int((far_N <= 2 * radius).sum()))][:_MOST_POINTS]

        def scaled(x_MD: np.ndarray) -> np.ndarray:
            return np.where(self._ordered_D, (x_MD - center_D) / radius, x_MD)

        process = GaussianProcess(scaled(x_ND[kept]), y_N[kept], self._ordered_D, trend=True, noise=1e-6)
        low_D = np.where(self._ordered_D, np.maximum(center_D - radius, 0), 0.0)
        high_D = np.where(self._ordered_D, np.minimum(center_D + radius, 1), 1.0)
        return self._maximise(process, float(y_N[kept].min()), low_D, high_D, rng, scaled)

    def _maximise(
        self, process: GaussianProcess, best: float, low_D: np.ndarray, high_D: np.ndarray,
        rng: np.random.Generator, scaled: Callable[[np.ndarray], np.ndarray],
    ) -> np.ndarray:  # fmt: skip
        """Return candidates [M, D], the one with the largest expected improvement first."""
        pending = [self._filled(params) for params in self.pending.values()]
        if pending:
            process = process.with_believed(scaled(np.array(pending)))
        found_MD = low_D + (high_D - low_D) * rng.random((_CANDIDATES // self._thrift, len(low_D)))
        near_MD = np.where(rng.random(found_MD.shape) < 0.5, self._best_D, found_MD)
        found_MD = self._snapped(np.concatenate([found_MD, near_MD]))
        score_M = log_expected_improvement(*process.predict(scaled(found_MD)), best)
        width = 0.3
        for _ in range(_ROUNDS if self._continuous else _ROUNDS // 2):
            order = np.argsort(-score_M, kind="stable")[: 2 * _REFINED]
            found_MD, score_M = found_MD[order], score_M[order]
            more_MD = self._perturbed(found_MD[: 5 if width > 0.05 else 2], width, low_D, high_D, rng)
            score_M = np.concatenate(
                [score_M, log_expected_improvement(*process.predict(scaled(more_MD)), best)]
            )
            found_MD = np.concatenate([found_MD, more_MD])
            width *= 0.4
        return found_MD[np.argsort(-score_M, kind="stable")]

    def _perturbed(
        self, base_MD: np.ndarray, width: float, low_D: np.ndarray, high_D: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:  # fmt: skip
        """Return points around the base points; some coordinates moved, unordered ones redrawn."""
        repeated_MD = np.repeat(base_MD, _REFINED // self._thrift // len(base_MD), axis=0)
        step_MD = width * (high_D - low_D) * rng.normal(size=repeated_MD.shape)
        redrawn_MD = rng.random(repeated_MD.shape)
        moved_MD = np.where(self._ordered_D, repeated_MD + step_MD, redrawn_MD)
        share = np.where(self._ordered_D, 0.7, 1 / repeated_MD.shape[1])
        chosen = rng.random(repeated_MD.shape) < share
        return self._snapped(np.clip(np.where(chosen, moved_MD, repeated_MD), low_D, high_D))

    def _snapped(self, unit_MD: np.ndarray) -> np.ndarray:
        if self._continuous:
            return unit_MD
        snapped_MD = self.space.snap_ND(unit_MD)
        return np.where(np.isnan(snapped_MD), 0.5, snapped_MD)

    def _filled(self, params: Params) -> np.ndarray:
        """Return the point's coordinates, 0.5 for parameters that it lacks."""
        unit_D = self.space.encode(params)
        return np.where(np.isnan(unit_D), 0.5, unit_D)
