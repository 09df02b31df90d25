"""The quadratic model: its lowest point, within the radius."""

from __future__ import annotations

import numpy as np
import pytest

from raymill.search.quadratic import last_round, lowest

CENTER = np.array([0.5, 0.5, 0.5])
BASIS = 0.1 * np.eye(3)
TARGET = np.array([0.6, 0.42, 0.55])
CURVATURE = np.array([[3.0, 1.0, 0.0], [1.0, 2.0, -0.5], [0.0, -0.5, 1.0]])


def points(count: int) -> np.ndarray:
    return CENTER + 0.1 * np.random.default_rng(0).normal(size=(count, 3))


def bowl(x_ND: np.ndarray) -> np.ndarray:
    off_ND = x_ND - TARGET
    return 7 + 100 * ((off_ND @ CURVATURE) * off_ND).sum(axis=1)


def test_the_lowest_point_of_a_quadratic_is_found():
    x_ND = points(20)
    assert lowest(x_ND, bowl(x_ND), CENTER, BASIS, 4.0) == pytest.approx(TARGET, abs=2e-3)


def test_it_does_not_depend_on_the_units_of_the_directions():
    x_ND = points(20)
    skewed = 0.1 * np.array([[1.0, 0.3, 0.0], [0.0, 1.0, 0.0], [0.2, 0.0, 0.5]])
    assert lowest(x_ND, bowl(x_ND), CENTER, skewed, 4.0) == pytest.approx(TARGET, abs=2e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_it_stays_within_the_radius(sign):
    x_ND = points(20)
    found_D = lowest(x_ND, sign * bowl(x_ND), CENTER, BASIS, 0.2)
    assert np.linalg.norm((found_D - CENTER) / 0.1) == pytest.approx(0.2, rel=1e-3)
    assert sign * (bowl(found_D[None])[0] - bowl(CENTER[None])[0]) < 0


def test_too_few_finite_values_give_nothing():
    x_ND = points(6)
    y_N = bowl(x_ND)
    assert lowest(x_ND, y_N, CENTER, BASIS, 1.0) is not None
    y_N[:2] = np.inf
    assert lowest(x_ND, y_N, CENTER, BASIS, 1.0) is None


def test_equal_values_are_survived():
    x_ND = points(12)
    found_D = lowest(x_ND, np.full(12, 3.0), CENTER, BASIS, 1.0)
    assert np.isfinite(found_D).all()
    assert np.linalg.norm((found_D - CENTER) / 0.1) <= 1.0 + 1e-9


def test_the_last_round_is_what_no_suggestion_learns_from():
    assert [number for number in range(20) if last_round(number, 4, 12, 3)] == [13, 14, 15, 16, 17, 18, 19]
    assert not last_round(15, 4, 12, 1)
    assert not last_round(15, 4, None, 3)
