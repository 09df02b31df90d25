"""How the trust region of `bayesian` follows results that come late."""

from __future__ import annotations

import pytest

from raymill.search import SEARCHERS, Space


def region_after(*values: float) -> float:
    """Return the radius, as a share of what it was, after the results of steps made in parallel from 1.0."""
    space = Space.parse({"parameters": {name: {"type": "float", "low": 0, "high": 1} for name in "ab"}})
    searcher = SEARCHERS.load("bayesian")(space, concurrency=4)
    while len(searcher.observations) < 8:
        searcher.tell(searcher.ask().number, 1.0 + 0.1 * len(searcher.observations))
    before = searcher._radius
    steps = [suggestion.number for suggestion in (searcher.ask() for _ in range(4)) if suggestion.number % 4]
    for number, value in zip(steps, values, strict=False):
        searcher.tell(number, value)
    return float(searcher._radius / before)


def test_a_step_that_helped_does_not_shrink_the_region_because_another_helped_more():
    won = region_after(0.1)
    assert region_after(0.1, 0.5) == won
    assert region_after(0.1, 2.0) < won
    assert region_after(2.0) == pytest.approx(0.75 ** (1 / (4 / 2.5)))
