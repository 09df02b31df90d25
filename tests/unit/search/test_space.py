"""The space: kinds, conditions, constraints, defaults, unit coordinates, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.errors import InvalidInput, SpecError
from raymill.search import Boolean, Categorical, Fixed, Float, Int, Ordinal, Space

MIXED = {
    "parameters": {
        "eta": {"type": "float", "low": 0.001, "high": 1, "log": True},
        "share": {"type": "float", "low": 0.1, "high": 1, "step": 0.1},
        "depth": {"type": "int", "low": 2, "high": 12, "default": 6},
        "leaves": {"type": "int", "low": 1, "high": 1000, "log": True},
        "booster": {"type": "categorical", "values": ["gbtree", "dart", "gblinear"]},
        "rate_drop": {"type": "float", "low": 0, "high": 0.5, "when": {"booster": "dart"}},
        "one_drop": {"type": "boolean", "when": "booster == 'dart' and rate_drop > 0.1"},
        "size": {"type": "ordinal", "values": ["s", "m", "l"]},
        "layers": {"type": "categorical", "values": [[64], [64, 32]]},
        "seed": {"type": "fixed", "value": 7},
    },
    "constraints": ["depth * eta <= 3", "rate_drop <= share"],
    "defaults": [{"eta": 0.3, "booster": "gbtree"}],
}


def unit_vectors(dimension: int) -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(0, 1), min_size=dimension, max_size=dimension)


SPACE = Space.parse(MIXED)


@given(unit_vectors(SPACE.dimension))
def test_what_decodes_lies_inside_and_encodes_to_the_same_point(unit):
    params = SPACE.decode(unit)
    unconstrained = SPACE.model_copy(update={"constraints": ()})
    assert unconstrained.contains(params) or not SPACE.feasible(params)
    again = SPACE.decode(SPACE.encode(params))
    assert again.keys() == params.keys()
    for name, value in params.items():
        assert again[name] == (pytest.approx(value) if isinstance(value, float) else value), name
    snapped = SPACE.snap_ND(np.array([unit]))
    np.testing.assert_allclose(snapped, SPACE.snap_ND(snapped), atol=1e-12)


@given(st.integers(0, 10_000))
def test_samples_and_neighbours_meet_conditions_and_constraints(seed):
    rng = np.random.default_rng(seed)
    params = SPACE.sample(rng)
    SPACE.check(params)
    near = SPACE.neighbour(params, rng, scale=0.1)
    SPACE.check(near)
    assert near != params


@given(st.floats(0, 1))
def test_every_level_gets_its_share(unit):
    parameter = Int(low=3, high=9, step=2)
    assert parameter.levels == 4
    assert parameter.decode(unit) == (3, 5, 7, 9)[min(int(unit * 4), 3)]


@pytest.mark.parametrize(
    "parameter",
    [
        Int(low=1, high=50, log=True), Int(low=-3, high=3), Int(low=1, high=20, log=True, step=3),
        Float(low=0.1, high=1, step=0.3), Float(low=0.5, high=4, step=0.5, log=True), Boolean(),
        Ordinal(values=(1, 2, 4)), Categorical(values=(1, True, None, "1", [1])), Float(low=2, high=2),
    ],
    ids=str,
)  # fmt: skip
def test_every_level_is_reached_and_encodes_to_itself(parameter):
    found = {repr(parameter.decode(unit)): parameter.decode(unit) for unit in np.linspace(0, 1, 4001)}
    assert len(found) == parameter.levels
    for value in found.values():
        assert parameter.contains(value)
        assert parameter.decode(parameter.encode(value)) == value


def test_log_ranges_are_uniform_in_the_logarithm():
    assert Float(low=0.01, high=100, log=True).decode(0.5) == pytest.approx(1)
    assert math.isclose(Float(low=0.01, high=100, log=True).encode(10), 0.75)


def test_a_parameter_exists_only_where_its_condition_holds():
    unit = dict.fromkeys(SPACE.names, 0.5)  # the middle booster is dart, rate_drop 0.25
    assert {"rate_drop", "one_drop"} <= SPACE.decode(list(unit.values())).keys()
    shallow = SPACE.decode(list((unit | {"rate_drop": 0.0}).values()))
    assert "rate_drop" in shallow
    assert "one_drop" not in shallow
    flat = SPACE.decode(list((unit | {"booster": 0.0}).values()))
    assert not {"rate_drop", "one_drop"} & flat.keys()
    assert np.isnan(SPACE.encode(flat)[SPACE.names.index("rate_drop")])


def test_defaults_are_completed_with_the_parameters_own_or_the_middle():
    first = SPACE.complete(SPACE.defaults[0])
    assert first["eta"] == 0.3
    assert first["depth"] == 6
    assert first["size"] == "m"
    assert first["seed"] == 7
    assert "rate_drop" not in first


def parameters(**given):
    return {"parameters": given}


X = {"type": "float", "low": 0, "high": 1}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (parameters(), "at least one parameter"),
        (parameters(x={"type": "fixed", "value": 1}), "more than one value"),
        (parameters(x={"type": "float", "low": 2, "high": 1}), r"parameters\.x.*low must not be above high"),
        (parameters(x=X | {"log": True}), "log range must be above zero"),
        (parameters(x={"type": "int", "low": 0, "high": 9, "log": True}), "log range must be above zero"),
        (parameters(x={"type": "int", "low": 0, "high": 1.5}), "integer"),
        (parameters(x=X | {"step": 0}), "greater than 0"),
        (parameters(x={"type": "float", "low": 0, "high": math.inf}), "finite"),
        (parameters(x=X | {"default": 3}), "default 3.0 is none of its values"),
        (parameters(x=X | {"hihg": 3}), r"unknown key 'parameters\.x\.float\.hihg'"),
        (parameters(x={"type": "flaot"}), "expected tags: 'float'"),
        (parameters(x={"type": "categorical", "values": []}), "at least one value"),
        (parameters(x={"type": "categorical", "values": [1, 1]}), "must differ"),
        (parameters(x=X, y=X | {"when": {"z": 1}}), "reads parameter 'z', which the space does not have"),
        (parameters(x=X, y=X | {"when": {"x": 3}}), "x = 3, which 'x' never is"),
        (parameters(x=X, y=X | {"when": "1 > 0"}), "reads no parameter"),
        (parameters(x=X | {"when": "y > 0"}, y=X | {"when": "x > 0"}), "cycle: x -> y -> x"),
        (parameters(x=X | {"when": "x > 0"}), "cycle: x -> x"),
        (parameters(x=X) | {"constraints": ["x > 2"]}, "no sample of 10000 meets constraint 'x > 2'"),
        (parameters(x=X) | {"constraints": ["x > 0.5", "x < 0.5"]}, "all constraints at once"),
        (parameters(x=X) | {"constraints": ["y > 2"]}, "reads parameter 'y'"),
        (parameters(x=X) | {"constraints": ["x >"]}, "cannot be read"),
        (parameters(x=X) | {"constraints": ["x > 'a'"]}, "fails on"),
        (parameters(x=X) | {"constraints": ["open('f') > x"]}, "no function 'open'"),
        (parameters(x=X) | {"constraints": ["x.__class__ == 1"]}, "reads parameter 'x.__class__'"),
        (parameters(x=X) | {"constraints": ["[i for i in [1]] > x"]}, "not allowed"),
        (parameters(x=X) | {"constraints": ["x[0] > 1"]}, "not allowed"),
        (parameters(x=X) | {"constraints": ["(lambda: 1)() > x"]}, "no function"),
        (parameters(x=X) | {"defaults": [{"y": 1}]}, "no parameter 'y'"),
        (parameters(x=X) | {"defaults": [{"x": 2}]}, "outside the space"),
        (parameters(x=X, y=X | {"when": "x > 0.5"}) | {"defaults": [{"x": 0, "y": 1}]}, "exists only when"),
        (parameters(x=X) | {"constraints": ["x > 0.6"], "defaults": [{}]}, "does not meet constraint"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_one_clear_error_at_construction(document, says):
    with pytest.raises(SpecError, match=says) as caught:
        Space.parse(document)
    assert "\n" not in str(caught.value)


def test_an_expression_that_has_no_value_somewhere_is_not_met_there():
    space = Space(parameters={"x": Int(low=0, high=3)}, constraints=("6 / x >= 2", "x ** 2 ** 2 < 99"))
    assert [value for value in range(4) if space.feasible({"x": value})] == [1, 2, 3]


def test_a_tower_of_powers_ends_at_once():
    space = Space(parameters={"x": Int(low=0, high=3)}, constraints=("x < 9 or 9 ** 9 ** 9 ** 9 > x",))
    assert space.feasible({"x": 3})
    with pytest.raises(SpecError, match="fails on"):
        Space(parameters={"x": Int(low=0, high=3)}, constraints=("len('a' * 10000000000) > x",))


@pytest.mark.parametrize(
    ("params", "says"),
    [({"x": 0.5}, "'k' is missing"), ({"x": 2.0, "k": 1}, "outside"), ({"x": 0.5, "k": 1, "j": 1}, "'j'")],
)
def test_points_outside_are_refused_with_the_reason(params, says):
    space = Space(parameters={"x": Float(low=0, high=1), "k": Fixed(value=1)})
    with pytest.raises(InvalidInput, match=says):
        space.check(params)
    assert not space.contains(params)
