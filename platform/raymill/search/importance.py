"""How much each parameter decided over being among the best: PED-ANOVA.

S. Watanabe, A. Bansal, F. Hutter: PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in
Arbitrary Subspaces, IJCAI 2023. One-dimensional densities only: no model of the objective is fitted.
"""

from __future__ import annotations

import math

import numpy as np

# N = trials, G = grid points

BEST_SHARE = 0.25  # of the trials; the paper takes 0.1, which of 30 trials leaves 3
GRID = 64


def importance(
    units_N: dict[str, np.ndarray], losses_N: np.ndarray, levels: dict[str, int | None]
) -> dict[str, float]:
    """Return each parameter's importance, summing to one; all zero where no parameter tells trials apart.

    Args:
        units_N: By parameter, float [N]: the unit coordinate of each trial's value; NaN where a trial
            does not have the parameter.
        losses_N: float [N], finite, lower is better.
        levels: By parameter, how many values it has; None for a continuum.
    """
    found = {name: _divergence(unit_N, losses_N, levels[name]) for name, unit_N in units_N.items()}
    total = sum(found.values())
    return {name: value / total if total > 1e-9 else 0.0 for name, value in found.items()}


def _divergence(unit_N: np.ndarray, losses_N: np.ndarray, levels: int | None) -> float:
    """Return the Pearson divergence of the best trials' density from that of all, over the unit interval."""
    has_N = ~np.isnan(unit_N)
    unit_N, losses_N = unit_N[has_N], losses_N[has_N]
    if len(unit_N) < 4:
        return 0.0
    best = max(2, math.ceil(BEST_SHARE * len(unit_N)))
    best_N = unit_N[np.argsort(losses_N, kind="stable")[:best]]
    all_G, best_G = _density(unit_N, levels), _density(best_N, levels)
    seen_G = all_G > 1e-12
    return float(np.sum(all_G[seen_G] * (best_G[seen_G] / all_G[seen_G] - 1) ** 2))


def _density(unit_N: np.ndarray, levels: int | None) -> np.ndarray:
    """Return the share of each level, or of each grid cell by a kernel estimate; they sum to one."""
    if levels is not None and levels <= GRID:
        cells_N = np.clip((unit_N * levels).astype(int), 0, levels - 1)
        return np.asarray(np.bincount(cells_N, minlength=levels) / len(unit_N))
    grid_G = (np.arange(GRID) + 0.5) / GRID
    width = max(float(np.std(unit_N)) * 1.06 * len(unit_N) ** -0.2, 0.5 / GRID)  # Scott's rule
    kernels_NG = np.exp(-0.5 * ((grid_G[None, :] - unit_N[:, None]) / width) ** 2)
    kernels_NG /= kernels_NG.sum(axis=1, keepdims=True)
    return np.asarray(kernels_NG.mean(axis=0))
