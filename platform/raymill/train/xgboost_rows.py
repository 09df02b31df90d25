"""The rows that XGBoost boosts on: those of the read order's first epoch, encoded, in memory.

Boosting reads its rows every round, so an order is asked once: `full` gives all rows, `sampled` one
sample, `incremental` what is new and the replayed share of the old.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from raymill.data import Snapshot
from raymill.data.decode import Decoder
from raymill.data.orders import EpochPlan
from raymill.features import Encoder
from raymill.flavors.xgboost_flavor import matrix
from raymill.train.base import TrainJob

DECODE_THREADS = 2

# N = rows, F = columns, K = row groups that are read, G = row groups of the snapshot


@dataclass(frozen=True)
class PlannedRows:
    """Some rows of a snapshot and how they are encoded; cheap to send, each worker loads its own part."""

    snapshot: Snapshot
    encoder: Encoder
    plan: EpochPlan

    @classmethod
    def of(cls, job: TrainJob) -> PlannedRows:
        """Return a job's training rows, row groups in the order they are stored."""
        snapshot, seed = job.snapshots["train"], job.spec.seed
        plan = job.spec.loader_config().make_order().plan(snapshot, seed=seed, epoch=0)
        order_K = np.argsort(plan.groups_K)
        weights_K = None if plan.weights_K is None else plan.weights_K[order_K]
        plan = EpochPlan(plan.groups_K[order_K], plan.rows_K[order_K], plan.pick, weights_K)
        return cls(snapshot, job.encoder, plan)

    @classmethod
    def all(cls, snapshot: Snapshot, encoder: Encoder) -> PlannedRows:
        """Return all rows of a snapshot, as they are stored."""
        groups_K = np.flatnonzero(snapshot.group_rows_G)
        return cls(snapshot, encoder, EpochPlan(groups_K, snapshot.group_rows_G[groups_K]))

    @property
    def groups(self) -> int:
        return len(self.plan.groups_K)

    def visits_G(self, rounds: int) -> np.ndarray:
        """Return int64: rows of each row group that `rounds` rounds learn from."""
        visits_G = np.zeros(self.snapshot.groups, np.int64)
        visits_G[self.plan.groups_K] = self.plan.rows_K * rounds
        return visits_G

    def load(self, places: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return the plan's row groups at `places`: float32 [N, F], labels [N], weights [N] or None.

        Weights are one on average over the whole plan; None where all rows count alike.

        Raises:
            DataError: a file that changed or cannot be read; it is named.
        """
        plan, decoder = self.plan, Decoder(self.snapshot, self.encoder)
        rows_P = plan.rows_K[list(places)].astype(np.int64)
        stops_P = np.cumsum(rows_P)
        whole = decoder.empty_rows(int(rows_P.sum()))

        def fill(place: int, start: int, stop: int) -> None:
            group, part = int(plan.groups_K[place]), whole.take(slice(start, stop))
            pick_N = None if plan.pick is None else plan.pick(group)
            decoder.decode_into(group, 0, stop - start, part.features, part.labels_N, pick_N)

        with ThreadPoolExecutor(DECODE_THREADS) as pool:
            list(pool.map(fill, places, (stops_P - rows_P).tolist(), stops_P.tolist()))
        weights_N = None
        if plan.weights_K is not None:
            scale = plan.rows / float(plan.weights_K @ plan.rows_K)
            weights_N = np.repeat(plan.weights_K[list(places)] * np.float32(scale), rows_P)
        return matrix(whole.features), whole.labels_N, weights_N
