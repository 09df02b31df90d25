"""Encoded rows with their labels and, where a sampling design needs them, their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raymill.features import Features
from raymill.kernels import gather

# N = rows


@dataclass(frozen=True)
class Rows:
    """Some rows; slicing shares memory, picking by number copies."""

    features: Features
    labels_N: np.ndarray
    weights_N: np.ndarray | None = None
    """float32: rows of the dataset that each row stands for, where they differ; else None."""

    def __len__(self) -> int:
        return len(self.labels_N)

    def take(self, rows_M: np.ndarray | slice) -> Rows:
        """Return the rows numbered `rows_M`, in that order."""
        if isinstance(rows_M, slice):
            weights_N = None if self.weights_N is None else self.weights_N[rows_M]
            return Rows(self.features.take(rows_M), self.labels_N[rows_M], weights_N)
        weights_N = None if self.weights_N is None else gather(self.weights_N, rows_M)
        return Rows(self.features.take(rows_M), gather(self.labels_N, rows_M), weights_N)

    @staticmethod
    def concatenate(parts: Sequence[Rows]) -> Rows:
        """Return all rows in one; a single part is returned as it is."""
        if len(parts) == 1:
            return parts[0]
        weights = [part.weights_N for part in parts if part.weights_N is not None]
        return Rows(
            Features.concatenate([part.features for part in parts]),
            np.concatenate([part.labels_N for part in parts]),
            np.concatenate(weights) if weights else None,
        )
