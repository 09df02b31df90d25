"""What to say when training has run away: the step, the rows it was on, and where to go on from."""

from __future__ import annotations

import numpy as np

from raymill.data import Loader, Snapshot
from raymill.errors import Diverged

SHOWN_GROUPS = 6


def diverged(what: str, loader: Loader, epoch: int, step: int, last_good: str) -> Diverged:
    """Return the error for a step, counted from 0 as the epoch is, after which `what` was seen."""
    visits_G = loader.visits(epoch, step + 1) - loader.visits(epoch, step)
    return Diverged(
        f"{what} in epoch {epoch + 1} at step {step}, on rows of {name_groups(loader.snapshot, visits_G)}; "
        f"last good checkpoint: {last_good}. Look at those rows for wild values, lower learning_rate, or "
        "set clip_norm"
    )


def name_groups(snapshot: Snapshot, visits_G: np.ndarray) -> str:
    """Return the files and row groups that have visits, the first few by name."""
    groups = np.flatnonzero(visits_G).tolist()
    names = [
        f"{snapshot.location(group).name} row group {snapshot.group_ordinal_G[group]}"
        for group in groups[:SHOWN_GROUPS]
    ]
    more = f" and {len(groups) - SHOWN_GROUPS} more" if len(groups) > SHOWN_GROUPS else ""
    return ", ".join(names) + more
