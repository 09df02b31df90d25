"""Every row of every row group, once an epoch, row groups in a new random order each epoch."""

from __future__ import annotations

import numpy as np

from raymill.config import Spec
from raymill.data.orders import EpochPlan
from raymill.data.snapshot import Snapshot


class FullOrder(Spec):
    """The default order. Hurts where one epoch is more than the run can afford: then sample."""

    def plan(self, snapshot: Snapshot, *, seed: int, epoch: int) -> EpochPlan:
        """Return a plan over all row groups that hold rows."""
        groups_K = np.random.default_rng([seed, epoch]).permutation(np.flatnonzero(snapshot.group_rows_G))
        return EpochPlan(groups_K, snapshot.group_rows_G[groups_K])
