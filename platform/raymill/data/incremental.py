"""Only what is new since a ledger was written, with a share of the old to keep it from being forgotten."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from raymill.config import Spec
from raymill.data.orders import EpochPlan
from raymill.data.snapshot import Snapshot
from raymill.errors import SpecError


class IncrementalOrder(Spec):
    """Row groups that the ledger lacks, and `replay` of those that it has."""

    replay: float = Field(default=0.0, ge=0, le=1)
    """Share of the known row groups read again each epoch; another share each epoch until all were."""
    rewritten: Literal["error", "learn", "skip"] = "error"
    """A known file with another size or mtime. learn: all its row groups are new. skip: they stay known."""
    vanished: Literal["error", "ignore"] = "error"
    """A known file that is gone."""

    def plan(self, snapshot: Snapshot, *, seed: int, epoch: int) -> EpochPlan:
        """Return the new row groups and the replayed ones, mixed; no row where nothing is new.

        Raises:
            SpecError: the snapshot was not compared with a ledger.
        """
        known_G = snapshot.group_known_G
        if known_G is None:
            raise SpecError(
                "read order 'incremental' needs a snapshot that was compared with a ledger; "
                "use ledger.mark(snapshot), with an empty Ledger() for the first run"
            )
        new = np.flatnonzero(~known_G & (snapshot.group_rows_G > 0))
        old = np.flatnonzero(known_G & (snapshot.group_rows_G > 0))
        replayed = old[:0]
        if len(new) and len(old) and self.replay:
            each = max(1, round(self.replay * len(old)))
            cycle, part = divmod(epoch, -(-len(old) // each))
            replayed = np.random.default_rng([seed, cycle]).permutation(old)[part * each : (part + 1) * each]
        groups_K = np.random.default_rng([seed, epoch, 1]).permutation(np.concatenate([new, replayed]))
        return EpochPlan(groups_K, snapshot.group_rows_G[groups_K])
