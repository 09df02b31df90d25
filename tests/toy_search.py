"""A searcher small enough to read, whose every suggestion depends on all results before it."""

from __future__ import annotations

from raymill.search.base import Searcher
from raymill.search.space import Params

FOLLOWER = "toy_search:Follower"


class Follower(Searcher):
    """Tries a neighbour of the best point so far, the nearer the more results there are."""

    name = "follower"

    def suggest(self, number: int) -> Params:
        rng = self.rng(number)
        found = [(o.values, o.number or -1, o.params) for o in self.observations if o.values]
        if not found:
            return self.space.sample(rng)
        best = min(found, key=lambda item: item[:2])[2]
        return self.space.neighbour(best, rng, scale=1 / (1 + len(self.observations)))
