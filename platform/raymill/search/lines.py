"""Values along a line through the space, and where a parabola through them is lowest."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

# D = unit coordinates


@dataclass
class Line:
    """Values found along a direction: at origin + t * step."""

    origin_D: np.ndarray
    step_D: np.ndarray
    axis: int | None
    """Which of the chain's directions it is; None for a move that is none of them."""
    epoch: int
    values: dict[float, float] = field(default_factory=dict)
    waiting: int = 0
    """Moves along it that are pending."""
    paired: bool = False
    """Whether both sides were asked for at once."""

    def at(self, t: float) -> np.ndarray:
        return self.origin_D + t * self.step_D

    def project(self, unit_D: np.ndarray) -> float:
        return float((unit_D - self.origin_D) @ self.step_D / max(float(self.step_D @ self.step_D), 1e-300))

    def best(self) -> float:
        return min(self.values, key=lambda t: self.values[t])

    def lowest(self) -> float | None:
        """Return where the parabola through the best point and its neighbours is lowest, if it has such."""
        ts = sorted(self.values)
        if len(ts) < 3:
            return None
        middle = min(max(ts.index(self.best()), 1), len(ts) - 2)
        a, b, c = ts[middle - 1 : middle + 2]
        left, right = self.values[b] - self.values[a], self.values[c] - self.values[b]
        if not math.isfinite(left) or not math.isfinite(right):
            return None
        curvature = right / (c - b) - left / (b - a)
        if curvature <= 0:
            return None
        slope = (left / (b - a) * (c - b) + right / (c - b) * (b - a)) / (c - a)
        return b - slope * (c - a) / (2 * curvature)
