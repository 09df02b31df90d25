"""Spaces to and from Ray Tune's domains; Optuna's are in tests/conformance/test_optuna.py."""

from __future__ import annotations

import re

import pytest

from raymill.errors import Unsupported
from raymill.search import Space
from raymill.search.exchange import from_tune, to_optuna, to_tune

FLAT = Space.parse(
    {
        "parameters": {
            "eta": {"type": "float", "low": 0.001, "high": 1, "log": True},
            "share": {"type": "float", "low": 0.2, "high": 1, "step": 0.2},
            "shrink": {"type": "float", "low": -2, "high": 3},
            "depth": {"type": "int", "low": 2, "high": 12},
            "leaves": {"type": "int", "low": 1, "high": 1000, "log": True},
            "even": {"type": "int", "low": 2, "high": 12, "step": 2},
            "booster": {"type": "categorical", "values": ["tree", None, 3, [1, 2]]},
            "dart": {"type": "boolean"},
            "seed": {"type": "fixed", "value": 7},
        }
    }
)


def test_what_goes_to_tune_comes_back_the_same() -> None:
    assert from_tune(to_tune(FLAT)) == FLAT


def test_tune_draws_values_of_the_space() -> None:
    domains = to_tune(FLAT)
    drawn = {name: set() for name in ("even", "depth", "share")}
    for _ in range(300):
        params = {
            name: domain.sample() if hasattr(domain, "sample") else domain for name, domain in domains.items()
        }
        FLAT.check(params)
        for name, values in drawn.items():
            values.add(round(params[name], 9))
    assert drawn == {name: {round(v, 9) for v in FLAT.parameters[name].all_values()} for name in drawn}


def test_steps_from_elsewhere_become_choices() -> None:
    space = Space.parse({"parameters": {"odd": {"type": "int", "low": 1, "high": 8, "step": 2}}})
    assert to_tune(space)["odd"].categories == [1, 3, 5, 7]


def test_nested_mappings_grids_and_constants_are_read() -> None:
    from ray import tune

    space = from_tune(
        {
            "model": {"depth": tune.qrandint(1, 10, 3), "size": tune.grid_search([8, 16])},
            "rate": tune.quniform(0.1, 0.5, 0.1),
            "name": "x",
        }
    )
    assert {name: one.all_values() for name, one in space.parameters.items()} == {
        "model.depth": [3, 6, 9], "model.size": [8, 16], "rate": [0.1, 0.2, 0.3, 0.4, 0.5], "name": ["x"],
    }  # fmt: skip


def test_what_the_other_cannot_say_is_refused_by_name() -> None:
    from ray import tune

    for bad in (tune.randn(0, 1), tune.qrandn(0, 1, 0.5), tune.sample_from(lambda: 1)):
        with pytest.raises(Unsupported, match=r"'x'.*range"):
            from_tune({"x": bad})
    parameters = {
        "on": {"type": "boolean"},
        "drop": {"type": "float", "low": 0, "high": 1, "when": {"on": True}},
    }
    conditional = Space.parse({"parameters": parameters})
    del parameters["drop"]["when"]
    constrained = Space.parse({"parameters": parameters, "constraints": ["drop <= 0.5"]})
    for to in (to_tune, to_optuna):
        with pytest.raises(Unsupported, match="'drop' exists only under a condition"):
            to(conditional)
        with pytest.raises(Unsupported, match=re.escape("constraint 'drop <= 0.5'")):
            to(constrained)
    odd = {"type": "int", "low": 1, "high": 9, "step": 2, "log": True}
    with pytest.raises(Unsupported, match="'x' has log and steps of 2 from 1"):
        to_tune(Space.parse({"parameters": {"x": odd}}))
