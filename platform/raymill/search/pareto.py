"""Ranking by several objectives at once: dominance, fronts, crowding (Deb et al. 2002, NSGA-II)."""

from __future__ import annotations

import numpy as np

# N = points, M = objectives, each minimised


def dominates_NN(values_NM: np.ndarray) -> np.ndarray:
    """Return bool [N, N]: whether point i is nowhere worse than point j and somewhere better."""
    no_worse = (values_NM[:, None, :] <= values_NM[None, :, :]).all(axis=2)
    better = (values_NM[:, None, :] < values_NM[None, :, :]).any(axis=2)
    return np.asarray(no_worse & better)


def front(values_NM: np.ndarray) -> np.ndarray:
    """Return bool [N]: whether no other point dominates this one."""
    return np.asarray(~dominates_NN(values_NM).any(axis=0))


def ranks_N(values_NM: np.ndarray) -> np.ndarray:
    """Return int64 [N]: 0 for the front, 1 for the front of the rest, and so on."""
    dominates = dominates_NN(values_NM)
    rank_N = np.zeros(len(values_NM), np.int64)
    left = np.ones(len(values_NM), bool)
    level = 0
    while left.any():
        top = left & ~(dominates & left[:, None]).any(axis=0)
        rank_N[top] = level
        left &= ~top
        level += 1
    return rank_N


def crowding_N(values_NM: np.ndarray) -> np.ndarray:
    """Return float64 [N]: how far apart each point's neighbours lie, summed over scaled objectives.

    Infinite at the ends of an objective; larger is lonelier.
    """
    distance_N = np.zeros(len(values_NM))
    for value_N in values_NM.T:
        order = np.argsort(value_N, kind="stable")
        spread = value_N[order[-1]] - value_N[order[0]]
        distance_N[order[[0, -1]]] = np.inf
        if spread > 0:
            distance_N[order[1:-1]] += (value_N[order[2:]] - value_N[order[:-2]]) / spread
    return distance_N


def best_first(values_NM: np.ndarray) -> np.ndarray:
    """Return int64 [N]: the points' indices, best first: by rank, then the lonelier first."""
    if values_NM.shape[1] == 1:
        return np.argsort(values_NM[:, 0], kind="stable")
    rank_N = ranks_N(values_NM)
    crowding = np.empty(len(values_NM))
    for level in np.unique(rank_N):
        crowding[rank_N == level] = crowding_N(values_NM[rank_N == level])
    return np.lexsort((-crowding, rank_N))
