"""Exact validation metrics while xgboost-ray's actors boost: scores are gathered, and all measure as one.

XGBoost's own distributed AUC is an average of the workers' AUCs, which on shards sorted by segment is
far from the AUC of the whole. Here every actor holds a share of the validation rows, whose scores
XGBoost keeps up to date tree by tree; all shares are put together by one all-reduce.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import xgboost
from xgboost import collective
from xgboost_ray.session import get_actor_rank, put_queue

from raymill.data import Snapshot
from raymill.data.decode import Decoder
from raymill.evaluation import evaluate
from raymill.features import Encoder
from raymill.flavors.options import Best
from raymill.flavors.xgboost_flavor import XGBoostConfig, feature_names, feature_types, matrix
from raymill.progress import INTERVAL_S

Entry = dict[str, float]


class Watch(xgboost.callback.TrainingCallback):  # type: ignore[misc]
    """In every actor: measures now and then and at the end, ends boosting early, tells of progress."""

    def __init__(self, config: XGBoostConfig, validation: Snapshot, encoder: Encoder, rows: int) -> None:
        super().__init__()
        self._config, self._rows, self._encoder = config, rows, encoder
        self._validation = validation
        self._best = Best(config.early_stopping, encoder.task) if config.early_stopping else None

    def before_training(self, model: Any) -> Any:
        self._started = self._last = time.monotonic()
        rank, world = collective.get_rank(), collective.get_world_size()
        groups = list(range(rank, self._validation.groups, world))
        self._mine, labels_N = _load(self._validation, self._encoder, groups)
        counts_W = np.zeros(world, np.int64)
        counts_W[rank] = len(labels_N)
        counts_W = _sum(counts_W)
        first = int(counts_W[:rank].sum())
        self._share, self._total = slice(first, first + len(labels_N)), int(counts_W.sum())
        self._labels_N = self._gather(labels_N)
        return model

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        done, rounds = model.num_boosted_rounds(), self._config.rounds
        losses = {f"train_{name}": float(values[-1]) for name, values in evals_log["train"].items()}
        over = False
        if done % self._config.measure_every == 0 or done == rounds:
            scores = model.predict(self._mine) if self._mine.num_row() else self._none()
            found = evaluate(self._encoder.task, self._gather(scores), self._labels_N)
            measured = {f"validation_{name}": value for name, value in found.items()}
            losses |= measured
            if self._best:
                self._best.take(losses)
                over = self._best.is_over
            if get_actor_rank() == 0:
                put_queue({"round": float(done)} | losses)
        if get_actor_rank() == 0:
            self._tell(done, losses, last=over or done == rounds)
        return over

    def _none(self) -> np.ndarray:
        classes = self._encoder.scores_per_row
        return np.empty((0, classes) if classes > 1 else 0, np.float32)

    def _gather(self, mine_N: np.ndarray) -> np.ndarray:
        """Return the rows of all actors: each adds its own to zeros, which leaves every number as it is."""
        whole_N = np.zeros((self._total, *mine_N.shape[1:]), mine_N.dtype)
        whole_N[self._share] = mine_N
        return _sum(whole_N)

    def _tell(self, done: int, losses: Entry, *, last: bool) -> None:
        now = time.monotonic()
        if not last and now - self._last < INTERVAL_S:
            return
        self._last = now
        seconds = max(now - self._started, 1e-9)
        rounds = self._config.rounds
        ending = "done" if last else f"{(rounds - done) * seconds / done:.0f} s left"
        shown = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
        print(
            f"round {done}/{rounds}, {done * self._rows / seconds:,.0f} rows/s, {shown}, {ending}", flush=True
        )


def _sum(array: np.ndarray) -> np.ndarray:
    total: np.ndarray = collective.allreduce(array, collective.Op.SUM)  # comes back flat
    return total.reshape(array.shape)


def _load(snapshot: Snapshot, encoder: Encoder, groups: Sequence[int]) -> tuple[xgboost.DMatrix, np.ndarray]:
    """Return the encoded rows of some row groups and their labels."""
    decoder = Decoder(snapshot, encoder)
    rows = snapshot.group_rows_G[list(groups)].astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
    features, labels_N = decoder.empty(int(rows.sum()))
    for group, count, start in zip(groups, rows.tolist(), starts.tolist(), strict=False):
        span = slice(start, start + count)
        decoder.decode_into(group, 0, count, features.take(span), labels_N[span])
    data = xgboost.DMatrix(
        matrix(features),
        feature_names=feature_names(encoder),
        feature_types=feature_types(encoder),
        enable_categorical=True,
    )
    return data, labels_N
