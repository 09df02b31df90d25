"""Simulated annealing whose neighbourhood adapts: moves along lines that learn direction and length.

A move is a step along one of D directions from where the chain is. One that helps is taken twice as far,
one that does not is mirrored, and three values on a line give the step to the lowest point of the
parabola through them. A worse point is accepted with chance exp(-delta / T) (Kirkpatrick et al. 1983), T
falling geometrically. After each round of directions they turn to where the chain went (Rosenbrock 1960),
each with a length of its own. In parallel, where results come too late to turn by, directions stay, and
once there are values enough every second suggestion is where a quadratic model of them is lowest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from raymill.config import Spec
from raymill.search.base import Observation, Searcher, key
from raymill.search.lines import Line
from raymill.search.quadratic import RADII, last_round, lowest, terms
from raymill.search.space import Params, move_unit, reflect

# D = unit coordinates

_ATTEMPTS = 50
_FARTHEST = 4.0
"""How far beyond its first step a line is followed."""
_STILL, _ALONG, _DEPENDENT = 1e-9, 0.95, 0.05
"""Directions stay when a round moved less, or mostly along one; shorter remainders are no direction."""
_NEAR = 0.03
"""A parabola's minimum this near to the best point of its line, in steps, is not worth a trial."""
_MODEL_EVERY, _VALUES_PER_TERM = 2, 1.5
"""In parallel one suggestion in so many comes from the quadratic model, from so many values on."""


class AnnealingOptions(Spec):
    """Options of `annealing`."""

    temperature: float = Field(default=0.02, ge=0)
    """At the start, in units of the median worsening of a move."""
    cooling: float = Field(default=0.95, gt=0, lt=1)
    """What the temperature is multiplied by after each result."""
    step: float = Field(default=0.3, gt=0, le=1)
    """Length of the first steps, in unit coordinates."""
    smallest_step: float = Field(default=1e-6, gt=0, lt=1)
    """The chain restarts elsewhere when all its steps have become shorter."""


@dataclass(frozen=True)
class _Plan:
    line: Line
    t: float
    kind: Literal["step", "second", "fit", "stray", "model"]


class AnnealingSearcher(Searcher):
    """Anneals one chain, whatever the concurrency: what is pending at a time are moves along several lines.

    Unordered parameters move to another value.
    """

    name = "annealing"
    Options = AnnealingOptions

    def prepare(self) -> None:
        self._plans: dict[int, _Plan] = {}
        self._tried: set[str] = set()
        self._units: list[np.ndarray] = []
        self._found: list[float] = []
        self._ordered_D = np.array([parameter.ordered for parameter in self.space.coordinates])
        self._levels_D = np.array([parameter.levels or 0 for parameter in self.space.coordinates])
        self._epoch, self._temperature = -1, self.options.temperature
        self._worsenings: list[float] = []
        self._begin()

    def _begin(self) -> None:
        self._epoch += 1
        self._at_D: np.ndarray | None = None
        self._value = math.inf
        self._start: int | None = None
        self._queue: list[_Plan] = []
        self._turn = 0
        self._directions_DD = np.eye(self.space.dimension)
        self._lengths_D = np.where(self._ordered_D, self.options.step, 0.0)
        self._round_D: np.ndarray | None = None

    def suggest(self, number: int) -> Params:
        rng = self.rng(number)
        if not self._begun():
            middle = self.space.decode(np.full(self.space.dimension, 0.5))
            first = self._epoch == 0 and key(middle) not in self._tried and self.space.feasible(middle)
            return middle if first else self.space.sample(rng)
        assert self._at_D is not None
        plan = self._plan(number)
        unit_D = np.clip(plan.line.at(plan.t), 0.0, 1.0)
        for attempt in range(_ATTEMPTS):
            moved = self.space.decode(unit_D)
            if key(moved) not in self._tried and self.space.feasible(moved):
                return moved
            unit_D = self._stray(rng, 1 + attempt / 5)
        return self.space.neighbour(self.space.decode(self._at_D), rng, scale=0.1)

    def _begun(self) -> bool:
        """Whether the chain is somewhere; free workers move on from its start before that has a value."""
        return self._at_D is not None and (self._start in self.pending or math.isfinite(self._value))

    def _stray(self, rng: np.random.Generator, wider: float) -> np.ndarray:
        """Return a point around the chain, for a planned one that cannot be tried."""
        assert self._at_D is not None
        scale = wider * float(np.mean(self._lengths_D))
        unit_D = self._at_D + scale * rng.normal(size=len(self._at_D))
        flip_D = rng.random(len(unit_D)) < max(0.2, 1 / len(unit_D))
        for at, parameter in enumerate(self.space.coordinates):
            if parameter.ordered:
                unit_D[at] = reflect(float(unit_D[at]))
            else:
                here = float(self._at_D[at])
                unit_D[at] = move_unit(parameter, here, rng, scale) if flip_D[at] else here
        return unit_D

    def _plan(self, number: int) -> _Plan:
        """Return what to try next: what a line asks for, else a step along the next direction."""
        assert self._at_D is not None
        if (plan := self._modelled(number)) is not None:
            return plan
        if self._queue:
            ask = self._queue[0]
            return _Plan(self._moved(ask.line), ask.t, ask.kind) if ask.kind == "fit" else ask
        if one := self._unpaired():
            return _Plan(one.line, -one.t, "step")
        rng, axis = self.rng(number, 2), self._turn % self.space.dimension
        sign = 1.0 if rng.random() < 0.5 else -1.0
        step_D = sign * self._lengths_D[axis] * self._directions_DD[axis]
        if not step_D.any():
            return self._flip(rng)
        step_D = step_D * self._at_least_a_level(step_D)
        if not self._inside(self._at_D + step_D) and self._inside(self._at_D - step_D):
            step_D = -step_D
        return _Plan(self._line(step_D, axis), 1.0, "step")

    def _modelled(self, number: int) -> _Plan | None:
        """Return the move to where the model is lowest, for values without order as the chain has them."""
        assert self._at_D is not None
        last = last_round(number, self.first, self.trials, self.concurrency)
        turn, rest = divmod(number, _MODEL_EVERY)
        fits = last and self._queue and self._queue[0].kind == "fit"
        if self.concurrency == 1 or fits or (rest != _MODEL_EVERY - 1 and not last):
            return None
        free_D = self._ordered_D
        if not free_D.any() or not self._units or not math.isfinite(self._value):
            return None
        if not last and len(self._units) <= _VALUES_PER_TERM * terms(int(free_D.sum())):
            return None
        known_ND = np.array(self._units)
        alike_N = (known_ND[:, ~free_D] == self._at_D[~free_D]).all(axis=1)
        found_D = lowest(
            known_ND[alike_N][:, free_D], np.array(self._found)[alike_N], self._at_D[free_D],
            np.diag(self._lengths_D[free_D]), RADII[(number if last else turn) % len(RADII)],
        )  # fmt: skip
        if found_D is None:
            return None
        step_D = np.zeros(self.space.dimension)
        step_D[free_D] = np.clip(found_D, 0.0, 1.0) - self._at_D[free_D]
        return _Plan(self._line(step_D, None), 1.0, "model")

    def _at_least_a_level(self, step_D: np.ndarray) -> float:
        """Return the factor by which a step that moves levels only must grow to reach another one."""
        moved = np.flatnonzero(step_D)
        if (self._levels_D[moved] == 0).any():
            return 1.0
        return max(1.0, 1.0 / float((np.abs(step_D[moved]) * self._levels_D[moved]).max()))

    def _unpaired(self) -> _Plan | None:
        """Return a pending step whose mirror image a free worker can try already."""
        for plan in self._plans.values():
            line = plan.line
            single = plan.kind == "step" and not line.paired and len(line.values) == 1
            if single and line.epoch == self._epoch and self._inside(line.at(-plan.t)):
                return plan
        return None

    def _flip(self, rng: np.random.Generator) -> _Plan:
        assert self._at_D is not None
        at = int(rng.choice(np.flatnonzero(~self._ordered_D)))
        step_D = np.zeros(self.space.dimension)
        step_D[at] = move_unit(self.space.coordinates[at], float(self._at_D[at]), rng, 1.0) - self._at_D[at]
        return _Plan(self._line(step_D, None), 1.0, "stray")

    def _line(self, step_D: np.ndarray, axis: int | None) -> Line:
        assert self._at_D is not None
        return Line(self._at_D.copy(), step_D, axis, self._epoch, {0.0: self._value})

    def accept(self, number: int, params: Params) -> None:
        self._tried.add(key(params))
        if not self._begun():
            self._at_D, self._start = self._filled(params), number
            return
        if number < len(self.space.defaults) or number < self.first:
            return
        assert self._at_D is not None
        plan = self._plan(number)
        if plan.kind == "model":
            pass
        elif self._queue:
            self._queue.pop(0)
        elif plan.t < 0:
            plan.line.paired = True
        else:
            self._turn += 1
            if self.concurrency == 1 and self._turn % self.space.dimension == 0:
                self._turn_directions()
        unit_D = self._filled(params)
        t = plan.line.project(unit_D)
        off = float(np.abs(plan.line.at(t) - unit_D).max())
        if off > 0.1 * float(np.abs(plan.line.step_D).max()):
            plan = _Plan(self._line(unit_D - self._at_D, None), 1.0, "stray")
        else:
            plan = _Plan(plan.line, t, plan.kind)
        plan.line.waiting += 1
        self._plans[number] = plan

    def observe(self, observation: Observation) -> None:
        self._tried.add(key(observation.params))
        number = observation.number
        plan = None if number is None else self._plans.pop(number, None)
        value = math.inf if observation.values is None else observation.values[0]
        here_D = self._filled(observation.params)
        self._units.append(here_D)
        self._found.append(value)
        if number is not None and number == self._start:
            self._value_start(here_D, value)
        if plan is not None and plan.line.epoch == self._epoch:
            plan.line.values[plan.t] = value
            plan.line.waiting -= 1
            self._temperature *= self.options.cooling
        if value < self._value or (plan is not None and self._accepts_worse(value, number or 0)):
            self._at_D, self._value = here_D, value
        if plan is not None and plan.line.epoch == self._epoch:
            self._follow(plan)
            if 0 < self._lengths_D.max() < self.options.smallest_step:
                self._begin()

    def _value_start(self, start_D: np.ndarray, value: float) -> None:
        """Fill in the value that lines begun meanwhile are compared to."""
        for plan in self._plans.values():
            if plan.line.epoch == self._epoch and np.array_equal(plan.line.origin_D, start_D):
                plan.line.values[0.0] = value

    def _accepts_worse(self, value: float, number: int) -> bool:
        delta = value - self._value
        if not math.isfinite(delta):
            return False
        self._worsenings.append(delta)
        unit = float(np.median(self._worsenings[-30:])) * self._temperature
        return bool(unit > 0 and self.rng(number, 1).random() < math.exp(-delta / unit))

    def _follow(self, plan: _Plan) -> None:
        """Queue what the line asks for next, or end it."""
        line = plan.line
        if line.waiting and plan.kind == "step":
            return
        if plan.kind == "step" and len(line.values) == 2:
            t = 2 * plan.t if line.best() else -plan.t
            if self._inside(line.at(t)):
                self._queue.append(_Plan(line, t, "second"))
                return
        lowest, best = line.lowest(), line.best()
        if plan.kind in ("second", "step"):
            if lowest is None and best:
                lowest = 4 * best
            if lowest is not None and abs(lowest - best) > _NEAR:
                ts = sorted(line.values)
                lowest = min(max(lowest, ts[0] - _FARTHEST), ts[-1] + _FARTHEST)
                self._queue.append(_Plan(line, lowest, "fit"))
        if plan.kind not in ("stray", "model"):
            self._end(line, best)

    def _moved(self, line: Line) -> Line:
        """Return the line through where the chain is now, which other lines may have moved meanwhile."""
        assert self._at_D is not None
        there_D = self._at_D
        for plan in self._plans.values():
            if plan.kind == "fit" and plan.line.epoch == self._epoch:
                there_D = there_D + (plan.t - plan.line.project(there_D)) * plan.line.step_D
        origin_D = there_D - line.project(there_D) * line.step_D
        return Line(origin_D, line.step_D, line.axis, line.epoch, line.values)

    @staticmethod
    def _inside(unit_D: np.ndarray) -> bool:
        return bool((unit_D >= 0).all() and (unit_D <= 1).all())

    def _end(self, line: Line, best: float) -> None:
        """Adapt the direction's length; after a round, turn the directions."""
        if line.axis is None:
            return
        length = float(np.linalg.norm(line.step_D))
        factor = min(max(abs(best), 0.35), 2.0)
        self._lengths_D[line.axis] = min(length * factor, 0.5)

    def _turn_directions(self) -> None:
        """Turn the directions so that the first is where the last round went (Gram-Schmidt)."""
        assert self._at_D is not None
        start_D, self._round_D = self._round_D, self._at_D
        if start_D is None:
            return
        moved_D = np.where(self._ordered_D, self._at_D - start_D, 0.0)
        length = float(np.linalg.norm(moved_D))
        share_D = np.abs(self._directions_DD @ moved_D)
        if length < _STILL or share_D.max() > _ALONG * length:
            return
        turned = [moved_D / length]
        for at in np.argsort(-share_D, kind="stable"):
            rest_D = self._directions_DD[at]
            for other_D in turned:
                rest_D = rest_D - (rest_D @ other_D) * other_D
            if len(turned) < len(share_D) and (norm := float(np.linalg.norm(rest_D))) > _DEPENDENT:
                turned.append(rest_D / norm)
        if len(turned) == len(share_D):
            lengths_D = np.abs(np.array(turned) @ self._directions_DD.T) @ self._lengths_D / 2
            lengths_D[0] = max(length / 2, lengths_D[0])
            self._directions_DD, self._lengths_D = np.array(turned), lengths_D

    def _filled(self, params: Params) -> np.ndarray:
        """Return the point's coordinates, those of absent parameters as the chain has them."""
        unit_D = self.space.encode(params)
        before_D = np.full(len(unit_D), 0.5) if self._at_D is None else self._at_D
        return np.where(np.isnan(unit_D), before_D, unit_D)
