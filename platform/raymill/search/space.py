"""One declarative space that every searcher understands: parameters, conditions, constraints, defaults.

A point of the space is a dict of the parameters that exist there. Searchers see it as a vector of unit
coordinates, one per parameter that has more than one value, NaN where the parameter does not exist.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
from pydantic import PrivateAttr, field_validator, model_validator

from raymill.config import Spec, parse
from raymill.errors import InvalidInput, SpecError, nearest
from raymill.search.expression import Expression
from raymill.search.parameters import AnyParameter, Parameter, identity

Params = dict[str, Any]
"""Parameter name to value; parameters whose condition does not hold are absent."""

MAX_DRAWS = 10_000
"""Draws after which a space's constraints count as impossible to meet."""

# D = coordinates (parameters with more than one value), N = points


class _Condition:
    """When a parameter exists; false where a parameter that it reads does not exist."""

    def __init__(self, when: str | Mapping[str, Any]) -> None:
        self.text = when if isinstance(when, str) else repr(dict(when))
        self._expression = Expression(when) if isinstance(when, str) else None
        self._allowed: dict[str, set[str]] = {}
        if not isinstance(when, str):
            for name, value in when.items():
                values = value if isinstance(value, list) else [value]
                self._allowed[name] = {identity(item) for item in values}
        self.names = self._expression.names if self._expression else frozenset(self._allowed)

    def holds(self, params: Mapping[str, Any]) -> bool:
        if not self.names <= params.keys():
            return False
        if self._expression:
            return self._expression.holds(params)
        return all(identity(params[name]) in allowed for name, allowed in self._allowed.items())


class Space(Spec):
    """What is searched. In YAML:

    ```
    parameters:
      eta:        {type: float, low: 0.001, high: 1, log: true}
      booster:    {type: categorical, values: [gbtree, dart]}
      rate_drop:  {type: float, low: 0, high: 0.5, when: {booster: dart}}
      depth:      {type: int, low: 2, high: 12}
    constraints: ["depth * eta <= 3"]
    defaults: [{eta: 0.3, booster: gbtree, depth: 6}]
    ```

    Raises SpecError, at construction, for whatever cannot work.
    """

    parameters: dict[str, AnyParameter]
    constraints: tuple[str, ...] = ()
    """Expressions that every trial meets; one that reads a parameter that does not exist there is met."""
    defaults: tuple[dict[str, Any], ...] = ()
    """Tried first, in this order; what an entry leaves out takes the parameter's own default."""

    _witness: Params = PrivateAttr(default_factory=dict)
    """A point that meets the constraints."""

    @field_validator("parameters")
    @classmethod
    def _some(cls, parameters: dict[str, AnyParameter]) -> dict[str, AnyParameter]:
        if not any(parameter.levels != 1 for parameter in parameters.values()):
            raise ValueError("a space needs at least one parameter with more than one value")
        if bad := [name for name in parameters if not name or name != name.strip()]:
            raise ValueError(f"a parameter's name must be text without blanks around it, got {bad[0]!r}")
        return parameters

    @model_validator(mode="after")
    def _consistent(self) -> Space:
        for name, condition in self._conditions.items():
            self._check_condition(name, condition)
        _ = self._order
        for expression in self._constraints:
            self._check_names(expression.names, f"constraint {expression.text!r}")
        if self._constraints:
            self._check_possible()
        for entry in self.defaults:
            self.complete(entry)
        return self

    @classmethod
    def parse(cls, document: Any, source: str = "space") -> Space:
        """Return the space of a document as YAML gives it. Raises SpecError, one line per rule broken."""
        return parse(cls, document, source)

    # Structure

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The coordinates' parameters, every parent before its children."""
        return tuple(name for name in self._order if self.parameters[name].levels != 1)

    @cached_property
    def coordinates(self) -> tuple[Parameter, ...]:
        """The parameters of `names`."""
        return tuple(self.parameters[name] for name in self.names)

    @property
    def dimension(self) -> int:
        return len(self.names)

    @cached_property
    def conditional(self) -> tuple[str, ...]:
        """Names of parameters that exist only under a condition."""
        return tuple(self._conditions)

    @cached_property
    def constrained(self) -> bool:
        return bool(self.constraints)

    @cached_property
    def size(self) -> int | None:
        """Number of combinations of values, at most; None where one parameter is a continuum."""
        levels = [parameter.levels for parameter in self.coordinates]
        return None if None in levels else math.prod(level or 1 for level in levels)

    @cached_property
    def _conditions(self) -> dict[str, _Condition]:
        return {
            name: _Condition(parameter.when)
            for name, parameter in self.parameters.items()
            if parameter.when is not None
        }

    @cached_property
    def _constraints(self) -> tuple[Expression, ...]:
        return tuple(Expression(text) for text in self.constraints)

    @cached_property
    def _order(self) -> tuple[str, ...]:
        parents = {name: self._conditions[name].names for name in self._conditions}
        graph = {name: sorted(parents.get(name, ())) for name in self.parameters}
        try:
            return tuple(TopologicalSorter(graph).static_order())
        except CycleError as error:
            raise SpecError(
                f"conditions form a cycle: {' -> '.join(error.args[1])}; drop one of their `when`"
            ) from error

    # Checks

    def _check_names(self, names: frozenset[str], what: str) -> None:
        if not names:
            raise SpecError(f"{what} reads no parameter; have: {', '.join(self.parameters)}")
        for name in sorted(names - self.parameters.keys()):
            raise SpecError(
                f"{what} reads parameter {name!r}, which the space does not have; have: "
                f"{', '.join(self.parameters)}.{nearest(name, self.parameters)}"
            )

    def _check_condition(self, name: str, condition: _Condition) -> None:
        what = f"the condition of parameter {name!r}"
        self._check_names(condition.names, what)
        when = self.parameters[name].when
        for parent, given in when.items() if isinstance(when, dict) else ():
            for value in given if isinstance(given, list) else [given]:
                if not self.parameters[parent].contains(value):
                    raise SpecError(
                        f"{what} waits for {parent} = {value!r}, which {parent!r} never is: it is "
                        f"{self.parameters[parent].describe()}"
                    )

    def _check_possible(self) -> None:
        rng = np.random.default_rng(0)
        met = [0] * len(self._constraints)
        for _ in range(MAX_DRAWS):
            params = self.decode(rng.random(self.dimension))
            verdicts = [self._meets(expression, params) for expression in self._constraints]
            met = [count + verdict for count, verdict in zip(met, verdicts, strict=True)]
            if all(verdicts):
                self._witness = params
                return
        never = [text for text, count in zip(self.constraints, met, strict=True) if not count]
        raise SpecError(
            f"no sample of {MAX_DRAWS} meets "
            + (f"constraint {never[0]!r}" if never else f"all constraints at once: {list(self.constraints)}")
            + "; loosen it, or write the space so that more of it is allowed"
        )

    def check(self, params: Mapping[str, Any]) -> None:
        """Raise InvalidInput unless `params` is a point of the space that meets its constraints."""
        for name in sorted(params.keys() - self.parameters.keys()):
            raise InvalidInput(f"the space has no parameter {name!r}.{nearest(name, self.parameters)}")
        for name in self._order:
            parameter, exists = self.parameters[name], self._exists(name, params)
            if exists and name not in params:
                raise InvalidInput(f"parameter {name!r} is missing; it is {parameter.describe()}")
            if not exists and name in params:
                raise InvalidInput(
                    f"parameter {name!r} is given, but exists only when {self._conditions[name].text}"
                )
            if exists and not parameter.contains(params[name]):
                raise InvalidInput(f"{name} = {params[name]!r} is outside the space: {parameter.describe()}")
        for expression in self._constraints:
            if not self._meets(expression, params):
                raise InvalidInput(f"{dict(params)} does not meet constraint {expression.text!r}")

    def contains(self, params: Mapping[str, Any]) -> bool:
        """Return whether `params` is a point of the space that meets its constraints."""
        try:
            self.check(params)
        except InvalidInput:
            return False
        return True

    def feasible(self, params: Mapping[str, Any]) -> bool:
        """Return whether a point of the space meets its constraints."""
        return all(self._meets(expression, params) for expression in self._constraints)

    @staticmethod
    def _meets(expression: Expression, params: Mapping[str, Any]) -> bool:
        return not expression.names <= params.keys() or expression.holds(params)

    def _exists(self, name: str, params: Mapping[str, Any]) -> bool:
        condition = self._conditions.get(name)
        return condition is None or condition.holds(params)

    # Points

    def decode(self, unit_D: Sequence[float] | np.ndarray) -> Params:
        """Return the point at unit coordinates, those of parameters that do not exist there unread."""
        return self._build(dict(zip(self.names, unit_D, strict=True)))

    def _build(self, unit: Mapping[str, float]) -> Params:
        found: Params = {}
        for name in self._order:
            if self._exists(name, found):
                value = unit.get(name, 0.5)
                found[name] = self.parameters[name].decode(0.5 if value != value else value)
        return {name: found[name] for name in self.parameters if name in found}

    def restrict(self, values: Mapping[str, Any]) -> Params:
        """Return the point that has these values, without those of parameters that do not exist there."""
        found: Params = {}
        for name in self._order:
            if self._exists(name, found):
                found[name] = values[name]
        return {name: found[name] for name in self.parameters if name in found}

    def encode(self, params: Mapping[str, Any]) -> np.ndarray:
        """Return the unit coordinates of a point: float64 [D], NaN for parameters that it lacks."""
        return np.array(
            [
                parameter.encode(params[name]) if name in params else np.nan
                for name, parameter in zip(self.names, self.coordinates, strict=True)
            ],
            float,
        )

    def snap_ND(self, unit_ND: np.ndarray) -> np.ndarray:
        """Return the coordinates of the points that these decode to: float64 [N, D], NaN where absent."""
        if self.conditional:
            return np.array([self.encode(self.decode(unit_D)) for unit_D in unit_ND]).reshape(unit_ND.shape)
        columns = [parameter.snap_N(unit_ND[:, at]) for at, parameter in enumerate(self.coordinates)]
        return np.stack(columns, axis=1)

    def sample(self, rng: np.random.Generator) -> Params:
        """Return a point that meets the constraints, uniform over the unit coordinates.

        Where constraints refuse MAX_DRAWS draws in a row it is a neighbour of the point that proved
        them possible.
        """
        for _ in range(MAX_DRAWS):
            params = self.decode(rng.random(self.dimension))
            if self.feasible(params):
                return params
        return self.neighbour(self._witness, rng, scale=0.1)

    def neighbour(self, params: Mapping[str, Any], rng: np.random.Generator, *, scale: float) -> Params:
        """Return another point nearby that meets the constraints: one or more coordinates moved.

        Ordered coordinates move by a normal step of standard deviation `scale` and at least one level,
        unordered ones to another value. Returns the point itself where nothing near is allowed.
        """
        unit_D = self.encode(params)
        for attempt in range(100):
            moved_D = self._move(unit_D, rng, scale * 0.93**attempt)
            moved = self.decode(moved_D)
            if moved != params and self.feasible(moved):
                return moved
        return dict(params)

    def _move(self, unit_D: np.ndarray, rng: np.random.Generator, scale: float) -> np.ndarray:
        moved_D = np.where(np.isnan(unit_D), rng.random(self.dimension), unit_D)
        chosen = rng.random(self.dimension) < max(1.0 / self.dimension, 0.2)
        chosen[rng.choice(np.flatnonzero(~np.isnan(unit_D)))] = True
        for at in np.flatnonzero(chosen):
            moved_D[at] = move_unit(self.coordinates[at], float(moved_D[at]), rng, scale)
        return moved_D

    def complete(self, entry: Mapping[str, Any]) -> Params:
        """Return an entry of `defaults` with what it leaves out filled in.

        Raises:
            SpecError: the entry is no point of the space.
        """
        found: Params = {}
        for name in self._order:
            parameter = self.parameters[name]
            if name in entry:
                found[name] = entry[name]
            elif self._exists(name, found):
                default = getattr(parameter, "default", None)
                found[name] = parameter.decode(0.5) if default is None else default
        found |= entry
        try:
            self.check(found)
        except InvalidInput as error:
            raise SpecError(f"default {dict(entry)}: {error}") from error
        return {name: found[name] for name in self.parameters if name in found}


def move_unit(parameter: Parameter, unit: float, rng: np.random.Generator, scale: float) -> float:
    """Return another coordinate of a parameter: near if it is ordered, else any other value's."""
    levels = parameter.levels
    if not parameter.ordered and levels is not None:
        here = min(int(unit * levels), levels - 1)
        other = (here + 1 + int(rng.integers(max(levels - 1, 1)))) % levels
        return (other + 0.5) / levels
    step = float(rng.normal()) * scale
    if levels is not None and abs(step) < 1 / levels:
        step = math.copysign(1 / levels, step)
    return reflect(unit + step)


def reflect(unit: float) -> float:
    """Return the coordinate mirrored at the ends of [0, 1] until it lies inside."""
    unit = unit % 2.0
    return 2.0 - unit if unit > 1.0 else unit
