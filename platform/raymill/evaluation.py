"""Exact metrics over a whole dataset, however many workers hold parts of it.

Workers gather (score, label) pairs, or their counts by unique score, and one computes. Never an
average of workers' averages: on shards sorted by segment such an AUC can be off by 0.1.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from raymill.errors import DataError

Task = Literal["binary", "multiclass", "regression"]

HIGHER_IS_BETTER = {"auc": True, "accuracy": True, "log_loss": False, "rmse": False, "mae": False}

METRICS: dict[Task, tuple[str, ...]] = {
    "binary": ("auc", "accuracy", "log_loss"),
    "multiclass": ("accuracy", "log_loss"),
    "regression": ("rmse", "mae"),
}
"""What `evaluate` returns, by task."""

# N = rows, K = classes, U = unique scores


def evaluate(task: Task, scores: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    """Return the task's metrics over all rows.

    Args:
        task: What the scores mean.
        scores: float [N] chance of the positive class (binary), [N, K] chances (multiclass) or
            [N] predictions (regression).
        labels_N: [N]: 0/1, the class index, or the target.

    Raises:
        DataError: no rows, or a length that differs.
    """
    if len(scores) == 0:
        raise DataError("metrics need at least one row, got 0; is the validation set empty?")
    if len(scores) != len(labels_N):
        raise DataError(f"metrics need one label a row, got {len(scores)} scores and {len(labels_N)} labels")
    return _METRICS[task](np.asarray(scores, np.float64), np.asarray(labels_N))


def auc(scores_N: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the exact area under the ROC curve, ties counted half (Mann-Whitney); NaN with one class.

    O(N log N). Counts are float64, exact below 2**53 pairs a term.
    """
    _, inverse_N = np.unique(scores_N, return_inverse=True)
    positives_U = np.bincount(inverse_N, weights=labels_N != 0)
    negatives_U = np.bincount(inverse_N, weights=labels_N == 0)
    return auc_from_counts(positives_U, negatives_U)


def auc_from_counts(positives_U: np.ndarray, negatives_U: np.ndarray) -> float:
    """Return the AUC from counts by unique score, ascending; counts of shards may be added up first."""
    positives, negatives = float(positives_U.sum()), float(negatives_U.sum())
    if positives == 0 or negatives == 0:
        return float("nan")
    below_U = np.cumsum(negatives_U) - negatives_U
    return float((positives_U * (below_U + negatives_U / 2)).sum() / (positives * negatives))


def _binary(scores_N: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    chance_N = np.clip(scores_N, 1e-7, 1 - 1e-7)
    labels_N = labels_N.astype(np.float64)
    return {
        "auc": auc(scores_N, labels_N),
        "accuracy": float(((scores_N >= 0.5) == (labels_N != 0)).mean()),
        "log_loss": float(-(labels_N * np.log(chance_N) + (1 - labels_N) * np.log1p(-chance_N)).mean()),
    }


def _multiclass(scores_NK: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    label_index_N = labels_N.astype(np.int64)
    chance_N = np.clip(scores_NK[np.arange(len(labels_N)), label_index_N], 1e-7, 1.0)
    return {
        "accuracy": float((scores_NK.argmax(axis=1) == label_index_N).mean()),
        "log_loss": float(-np.log(chance_N).mean()),
    }


def _regression(predictions_N: np.ndarray, targets_N: np.ndarray) -> dict[str, float]:
    error_N = predictions_N - targets_N.astype(np.float64)
    return {"rmse": float(np.sqrt((error_N**2).mean())), "mae": float(np.abs(error_N).mean())}


_METRICS = {"binary": _binary, "multiclass": _multiclass, "regression": _regression}
PRIMARY_METRIC: dict[str, str] = {"binary": "auc", "multiclass": "accuracy", "regression": "rmse"}
