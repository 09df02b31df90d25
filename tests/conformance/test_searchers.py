"""What every searcher of the table must do, on a space with parameters of all kinds."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raymill.errors import InvalidInput, SpecError, Unsupported
from raymill.search import SEARCHERS, Float, Searcher, Space, Suggestion

TRIALS = 36
PLATFORM = Path(__file__).resolve().parents[2] / "platform"
MIXED = {
    "parameters": {
        "eta": {"type": "float", "low": 0.001, "high": 1, "log": True},
        "share": {"type": "float", "low": 0.1, "high": 1, "step": 0.1},
        "depth": {"type": "int", "low": 2, "high": 12, "step": 2},
        "leaves": {"type": "int", "low": 1, "high": 1000, "log": True},
        "booster": {"type": "categorical", "values": ["tree", "dart", "linear"]},
        "drop": {"type": "float", "low": 0, "high": 0.5, "when": {"booster": "dart"}},
        "once": {"type": "boolean", "when": "booster == 'dart' and drop > 0.1"},
        "size": {"type": "ordinal", "values": ["s", "m", "l"]},
        "seed": {"type": "fixed", "value": 7},
    },
    "constraints": ["depth * eta <= 6", "drop <= share"],
    "defaults": [{"eta": 0.3, "booster": "tree", "depth": 4}],
}
SPACE = Space.parse(MIXED)
OPTIONS: dict[str, dict[str, Any]] = {
    "grid": {"values": {"eta": [0.01, 0.1, 0.5], "depth": [2, 4, 8], "booster": ["tree", "dart", "linear"],
                        "size": ["s", "l"]}},
}  # fmt: skip


def searcher(name: str, space: Space = SPACE, **given: Any) -> Searcher:
    options = OPTIONS.get(name) if space is SPACE else None
    return SEARCHERS.load(name)(space, **({"trials": TRIALS, "options": options} | given))


def score(params: dict[str, Any]) -> float | None:
    if params["depth"] == 12:
        return None  # these trials fail
    bonus = {"tree": 0.0, "dart": -0.5, "linear": 1.0}[params["booster"]]
    return (math.log10(params["eta"]) + 1) ** 2 + abs(params["depth"] - 6) / 4 + bonus + params.get("drop", 0)


def run(found: Searcher, trials: int = TRIALS, concurrency: int = 1) -> list[dict[str, Any]]:
    """Ask and tell, `concurrency` pending at a time, and return the suggestions."""
    asked, waiting = [], []
    for _ in range(trials):
        if len(waiting) == concurrency:
            oldest = waiting.pop(0)
            found.tell(oldest.number, score(oldest.params))
        suggestion = found.ask()
        if suggestion is None:
            break
        asked.append(suggestion.params)
        waiting.append(suggestion)
    return asked


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("name", list(SEARCHERS))
def test_every_suggestion_lies_inside_the_space(name, concurrency):
    asked = run(searcher(name, concurrency=concurrency), concurrency=concurrency)
    for params in asked:
        SPACE.check(params)
    assert len(asked) == TRIALS
    assert asked[0] == SPACE.complete(SPACE.defaults[0])
    assert len({json.dumps(params) for params in asked}) == TRIALS  # nothing twice, pending or not


@pytest.mark.parametrize("name", list(SEARCHERS))
def test_equal_seeds_agree_also_in_another_process_and_other_seeds_do_not(name):
    here = run(searcher(name, seed=3), 16)
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import test_searchers as t; "
        "print(json.dumps(t.run(t.searcher(sys.argv[2], seed=3), 16)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), name], capture_output=True, text=True,
        check=True, env={"PYTHONPATH": str(PLATFORM), "OMP_NUM_THREADS": "1"}, timeout=120,
    )  # fmt: skip
    assert json.loads(done.stdout) == here
    assert name == "grid" or run(searcher(name, seed=4), 16) != here


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("name", list(SEARCHERS))
def test_a_restored_searcher_goes_on_as_the_uninterrupted_one(name, concurrency):
    whole, restored = (searcher(name, concurrency=concurrency) for _ in range(2))
    waiting: list[Suggestion] = []
    for number in range(TRIALS):
        if len(waiting) == concurrency:
            oldest = waiting.pop(0)
            for each in (whole, restored):
                each.tell(oldest.number, score(oldest.params))
        suggestion = whole.ask()
        if number < TRIALS // 2:
            restored.restore(suggestion.number, suggestion.params)
        else:
            assert restored.ask() == suggestion
        waiting.append(suggestion)


@pytest.mark.parametrize("name", list(SEARCHERS))
def test_nothing_but_failures_and_flat_objectives_are_survived(name):
    for value in (None, math.nan, 1.0):
        found = searcher(name)
        for _ in range(24):
            suggestion = found.ask()
            SPACE.check(suggestion.params)
            found.tell(suggestion.number, value)
        assert all((one.values is None) == (value != 1.0) for one in found.observations)


@pytest.mark.parametrize("name", list(SEARCHERS))
def test_more_than_one_objective_is_searched_or_refused_by_name(name):
    if not SEARCHERS.load(name).multi_objective:
        with pytest.raises(Unsupported, match=f"{name}.* one objective, got 2"):
            searcher(name, objectives=2)
        return
    found = searcher(name, objectives=2)
    for _ in range(TRIALS):
        suggestion = found.ask()
        found.tell(suggestion.number, [suggestion.params["eta"], -suggestion.params["depth"]])
    with pytest.raises(InvalidInput, match="2 objectives"):
        found.tell(found.ask().number, 1.0)


@pytest.mark.parametrize("name", list(SEARCHERS))
def test_unknown_options_and_impossible_counts_are_refused(name):
    with pytest.raises(SpecError, match="unknown key 'nonsense'"):
        searcher(name, options={"nonsense": 1})
    with pytest.raises(SpecError, match="trials must be at least 1"):
        searcher(name, trials=0)
    with pytest.raises(InvalidInput, match="not pending"):
        searcher(name).tell(5, 1.0)


LEARNERS = [name for name in SEARCHERS if SEARCHERS.load(name).learns]


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("name", LEARNERS)
def test_searchers_that_learn_beat_random_on_a_sphere(name, concurrency):
    space = Space(parameters={f"x{axis}": Float(low=-5, high=5) for axis in range(4)})

    def best(kind: str, seed: int) -> float:
        found, waiting, lowest = searcher(kind, space, seed=seed, concurrency=concurrency), [], math.inf
        for _ in range(60):
            if len(waiting) == concurrency:
                found.tell(*waiting.pop(0))
            suggestion = found.ask()
            value = sum((x - 1.7) ** 2 for x in suggestion.params.values())
            lowest = min(lowest, value)
            waiting.append((suggestion.number, value))
        return math.log10(lowest)

    seeds = range(3)
    assert np.mean([best(name, seed) for seed in seeds]) < np.mean([best("random", s) for s in seeds]) - 0.3


def test_genetic_spreads_over_the_front_of_two_objectives():
    space = Space(parameters={"x": Float(low=0, high=1), "y": Float(low=0, high=1)})

    def spread(name: str, seed: int) -> float:
        found = SEARCHERS.load(name)(space, objectives=2, seed=seed)
        volume = []
        for _ in range(100):
            suggestion = found.ask()
            x, y = suggestion.params["x"], suggestion.params["y"]
            values = (x + 2 * y, (1 - x) + 2 * y)
            volume.append(values)
            found.tell(suggestion.number, values)
        at, highest = 0.0, 3.0
        for first, second in sorted(volume):  # the area that the points dominate below (3, 3)
            if second < highest and first < 3:
                at += (3 - first) * (highest - second)
                highest = second
        return at

    seeds = range(5)
    bred = np.mean([spread("genetic", seed) for seed in seeds])
    assert bred > np.mean([spread("random", seed) for seed in seeds]) + 0.1


def test_a_users_searcher_is_named_by_module_and_attribute():
    assert SEARCHERS.load("raymill.search.random_search:RandomSearcher") is SEARCHERS.load("random")
