"""Grid search: every combination of values once, in the order in which parameters are written."""

from __future__ import annotations

import itertools
from functools import cached_property
from typing import Any

from pydantic import Field

from raymill.config import Spec
from raymill.errors import SpecError, Unsupported, nearest
from raymill.search.base import Searcher, key
from raymill.search.space import Params

MAX_CELLS = 1_000_000


class GridOptions(Spec):
    """Options of `grid`."""

    values: dict[str, list[Any]] = {}
    """Parameter to the values to try, instead of all of its own."""
    points: int | None = Field(default=None, ge=1)
    """How many values, evenly spaced in unit coordinates, a parameter without levels gets."""


class GridSearcher(Searcher):
    """Tries every cell that meets conditions and constraints, and then has no more.

    A parameter with levels is tried at all of them, unless `values` says otherwise; one without needs
    `values` or `points`. With `values` given, parameters that it leaves out stay at their default.
    """

    name = "grid"
    Options = GridOptions
    multi_objective = True
    learns = False
    finite = True

    def prepare(self) -> None:
        for name in self.options.values:
            if name not in self.space.parameters:
                raise SpecError(f"grid: no parameter {name!r}.{nearest(name, self.space.parameters)}")
        cells = 1
        for values in self._axes.values():
            cells *= len(values)
        if cells > MAX_CELLS:
            raise Unsupported(f"grid: {cells} cells are more than {MAX_CELLS}; give `values` for some")
        if not self._cells:
            raise SpecError("grid: no cell meets the constraints; give other `values`")

    def suggest(self, number: int) -> Params | None:
        index = number - max(self.first, len(self.space.defaults))
        return dict(self._cells[index]) if index < len(self._cells) else None

    @cached_property
    def _axes(self) -> dict[str, list[Any]]:
        return {name: self._axis(name) for name in self.space.parameters}

    def _axis(self, name: str) -> list[Any]:
        parameter = self.space.parameters[name]
        if name in self.options.values:
            for value in (values := self.options.values[name]):
                if not parameter.contains(value):
                    raise SpecError(f"grid: {name} = {value!r} is outside the space: {parameter.describe()}")
            if not values:
                raise SpecError(f"grid: `values` of {name!r} is empty")
            return list(values)
        default = getattr(parameter, "default", None)
        if self.options.values and self.options.points is None:
            return [parameter.decode(0.5) if default is None else default]
        count = self.options.points if parameter.levels is None else parameter.levels
        if count is None:
            raise Unsupported(
                f"grid: parameter {name!r} has no levels: {parameter.describe()}; give "
                f"`values: {{{name}: [...]}}`, `points`, or the parameter a step"
            )
        if parameter.levels is None:
            return [parameter.decode(at / max(count - 1, 1) if count > 1 else 0.5) for at in range(count)]
        if parameter.levels > MAX_CELLS:
            raise Unsupported(f"grid: parameter {name!r} has {parameter.levels} levels; give `values`")
        return parameter.all_values()

    @cached_property
    def _cells(self) -> list[Params]:
        """All cells but the defaults, each once: values of an absent parameter make no difference."""
        seen: dict[str, Params] = {}
        tried = {key(self.space.complete(entry)) for entry in self.space.defaults}
        for combination in itertools.product(*self._axes.values()):
            params = self.space.restrict(dict(zip(self._axes, combination, strict=True)))
            if key(params) not in tried and self.space.feasible(params):
                seen.setdefault(key(params), params)
        return list(seen.values())
