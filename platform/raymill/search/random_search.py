"""Random search: independent draws, or a low-discrepancy sequence that covers the space more evenly."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from raymill.config import Spec
from raymill.errors import Unsupported, needs_extra
from raymill.search.base import Searcher, key
from raymill.search.space import MAX_DRAWS, Params

_REDRAWS = 20
_BLOCK = 64


class RandomOptions(Spec):
    """Options of `random`."""

    sequence: Literal["independent", "sobol"] = "independent"
    """sobol: a scrambled Sobol sequence (Owen 1998)."""


class RandomSearcher(Searcher):
    """Draws uniformly over the unit coordinates, so log ranges are uniform in the logarithm.

    Independent draws avoid points that were tried or are pending, as long as redrawing finds others.
    """

    name = "random"
    Options = RandomOptions
    multi_objective = True
    learns = False

    def prepare(self) -> None:
        self._tried: set[str] = set()
        self._found: list[Params] = []
        self._sobol: Any = None
        if self.options.sequence == "sobol":
            with needs_extra("search"):
                from scipy.stats import qmc
            if self.space.dimension > qmc.Sobol.MAXDIM:
                raise Unsupported(
                    f"a Sobol sequence has at most {qmc.Sobol.MAXDIM} dimensions, the space has "
                    f"{self.space.dimension}; use sequence: independent"
                )
            self._sobol = qmc.Sobol(self.space.dimension, rng=np.random.default_rng(self.seed))

    def accept(self, number: int, params: Params) -> None:
        if self.space.size is not None:
            self._tried.add(key(params))

    def suggest(self, number: int) -> Params:
        if self._sobol is not None:
            return self._of_sequence(number - self.first)
        rng = self.rng(number)
        for _ in range(_REDRAWS):
            params = self.space.sample(rng)
            if key(params) not in self._tried:
                break
        return params

    def _of_sequence(self, index: int) -> Params:
        """Return the `index`-th point of the sequence that meets the constraints."""
        draws = 0
        while len(self._found) <= index:
            for unit_D in self._sobol.random(_BLOCK):
                params = self.space.decode(unit_D)
                if self.space.feasible(params):
                    self._found.append(params)
            draws += _BLOCK
            if draws > MAX_DRAWS:
                self._found.append(self.space.sample(self.rng(index, 1)))
        return self._found[index]
