"""Hyper-parameter search: one space, searchers that ask and tell, a study that can be replayed."""

from __future__ import annotations

from raymill.registry import Registry
from raymill.search.base import Observation, Searcher, Suggestion
from raymill.search.parameters import Boolean, Categorical, Fixed, Float, Int, Ordinal
from raymill.search.space import Params, Space

SEARCHERS: Registry[type[Searcher]] = Registry(
    "searcher",
    {
        "annealing": "raymill.search.annealing:AnnealingSearcher",
        "bayesian": "raymill.search.bayesian:BayesianSearcher",
        "genetic": "raymill.search.genetic:GeneticSearcher",
        "grid": "raymill.search.grid:GridSearcher",
        "random": "raymill.search.random_search:RandomSearcher",
    },
)

__all__ = [
    "SEARCHERS",
    "Boolean",
    "Categorical",
    "Fixed",
    "Float",
    "Int",
    "Observation",
    "Ordinal",
    "Params",
    "Searcher",
    "Space",
    "Suggestion",
]
