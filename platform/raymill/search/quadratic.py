"""Where a quadratic model of the values around a point is lowest.

The model is a Bayesian linear regression on constant, linear and quadratic terms, so it needs fewer points
than it has terms. Values far from the point or much higher than the lowest count less.
"""

from __future__ import annotations

import numpy as np

# N = observations, D = coordinates that the model moves, H = terms

_POINTS_PER_TERM = 2.0
_NOISE, _FAR = 1e-3, 4.0
"""Deviation of values around the point, as a share of their spread; the distance at which it has grown."""
_WIDE, _MIXED = 10.0, 0.3
"""Prior deviations of a term, and of one that mixes two directions, in spreads."""


RADII = (4.0, 1.0)
"""Radii to ask for in turn, so that two such suggestions differ that are pending at a time."""


def last_round(number: int, first: int, trials: int | None, concurrency: int) -> bool:
    """Return whether no suggestion can learn from this one any more, so that it should be good itself."""
    return concurrency > 1 and trials is not None and number >= first + trials - concurrency


def terms(dimension: int) -> int:
    """Return how many terms the model has."""
    return (dimension + 1) * (dimension + 2) // 2


def lowest(
    x_ND: np.ndarray, y_N: np.ndarray, center_D: np.ndarray, basis_DD: np.ndarray, radius: float
) -> np.ndarray | None:
    """Return where the model is lowest, within `radius` of the center: float64 [D].

    Args:
        y_N: values; those that are not finite count as unknown.
        basis_DD: one row a direction, as long as a step along it; the radius counts in such steps.

    Returns:
        None where there are too few values.
    """
    dimension, known_N = len(center_D), np.isfinite(y_N)
    if known_N.sum() < dimension + 2:
        return None
    z_ND = np.linalg.solve(basis_DD.T, (x_ND[known_N] - center_D).T).T
    slope_D, curvature_DD = _fit(z_ND, y_N[known_N])
    if not (np.isfinite(slope_D).all() and np.isfinite(curvature_DD).all()):
        return None
    found_D: np.ndarray = center_D + _step(slope_D, curvature_DD, radius) @ basis_DD
    return found_D


def _fit(z_ND: np.ndarray, y_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return slope and curvature at zero."""
    dimension = z_ND.shape[1]
    distance_N = (z_ND**2).sum(axis=1)
    kept = np.argsort(distance_N, kind="stable")[: int(_POINTS_PER_TERM * terms(dimension))]
    z_ND, distance_N, y_N = z_ND[kept], distance_N[kept], y_N[kept]
    above_N = y_N - y_N.min()
    above_N = above_N / (float(np.median(above_N[: 2 * dimension + 1])) or 1.0)
    first, second = np.triu_indices(dimension)
    product_NH = np.where(first == second, 0.5, 1.0) * z_ND[:, first] * z_ND[:, second]
    term_NH = np.hstack([np.ones((len(z_ND), 1)), z_ND, product_NH])
    noise_N = _NOISE * (1 + distance_N / _FAR**2) ** 1.5 * np.maximum(above_N, 1.0)
    term_NH = term_NH / noise_N[:, None]
    prior_H = np.full(term_NH.shape[1], _WIDE)
    prior_H[1 + dimension :][first != second] = _MIXED
    precision_HH = term_NH.T @ term_NH + np.diag(prior_H**-2)
    weight_H = np.linalg.solve(precision_HH, term_NH.T @ (above_N / noise_N))
    curvature_DD = np.zeros((dimension, dimension))
    curvature_DD[first, second] = curvature_DD[second, first] = weight_H[1 + dimension :]
    return weight_H[1 : 1 + dimension], curvature_DD


def _step(slope_D: np.ndarray, curvature_DD: np.ndarray, radius: float) -> np.ndarray:
    """Return the lowest point of a quadratic within a ball (More and Sorensen 1983)."""
    bend_D, axis_DD = np.linalg.eigh(curvature_DD)
    along_D = axis_DD.T @ slope_D
    low = max(-float(bend_D[0]), 0.0) + 1e-9
    step_D = -along_D / (bend_D + low)
    if np.linalg.norm(step_D) > radius:
        high = low + float(np.linalg.norm(along_D)) / radius
        for _ in range(40):
            middle = (low + high) / 2
            longer = np.linalg.norm(along_D / (bend_D + middle)) > radius
            low, high = (middle, high) if longer else (low, middle)
        step_D = -along_D / (bend_D + high)
    return np.asarray(axis_DD @ step_D)
