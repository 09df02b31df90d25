"""How many rows of each row group a lane has handed out: arithmetic, and one permutation."""

from __future__ import annotations

import numpy as np

from raymill.data.stream import Windows


def visits_of(windows: Windows, rows: int, shuffle_key: tuple[int, ...] | None, groups: int) -> np.ndarray:
    """Return int64 [G]: rows of each of `groups` row groups among the first `rows` that a lane hands out."""
    found_G = np.zeros(groups, np.int64)
    if rows == 0:
        return found_G
    plan = windows.plan
    number, offset = windows.find(rows)
    whole = windows.low + rows - offset  # everything before the open window has been handed out
    ends_K = plan.starts_K + plan.rows_K
    found_G[plan.groups_K] = np.clip(
        np.minimum(ends_K, whole) - np.maximum(plan.starts_K, windows.low), 0, None
    )
    if offset:
        pieces = windows.pieces(number)
        ends = np.cumsum([piece.rows for piece in pieces])
        order_N = windows.order_N(number, int(ends[-1]), shuffle_key)
        handed_out = np.arange(offset) if order_N is None else order_N[:offset]
        counts = np.bincount(np.searchsorted(ends, handed_out, side="right"), minlength=len(pieces))
        found_G[plan.groups_K[[piece.k for piece in pieces]]] += counts
    return found_G
