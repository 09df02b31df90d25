"""What a strategy is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from raymill.data import Ledger, Snapshot
from raymill.features import Encoder
from raymill.flavors import Flavor
from raymill.train.spec import TrainSpec


@dataclass(frozen=True)
class Trial:
    """What a run does differently inside a study."""

    report: Callable[[dict[str, float], Callable[[Path], None] | None], None]
    """Called with each measurement and, by strategy `local`, a writer of the state that was measured; may
    end the run by raising. Ray Train's workers report to Tune themselves."""
    every_rounds: int = 1
    """Boosting rounds between measurements; epochs are measured each."""
    resume: Path | None = None
    """A directory that such a writer wrote: where to go on from, with strategy `local`."""


@dataclass(frozen=True)
class TrainJob:
    """A validated run: nothing in it can be refused any more for being malformed."""

    spec: TrainSpec
    run: str
    flavor: Flavor
    encoder: Encoder
    snapshots: Mapping[str, Snapshot]
    """By dataset role; train and validation are always there."""
    ledger: Ledger = field(default_factory=Ledger)
    """What the version that this run starts from has learned from; empty for a run from scratch."""
    start: Mapping[str, np.ndarray] | None = None
    """Learned arrays to start from, in the names of `Learner.weights`; None for a run from scratch."""
    trial: Trial | None = None
    """Set where this run is a trial of a study, which hears of every measurement."""


@dataclass(frozen=True)
class Outcome:
    """A trained model in memory, in the form its flavor saves, and how training went."""

    model: Any
    rows_seen: int
    """Training rows over all epochs; each counts once however often workers died."""
    history: list[dict[str, float]]
    """One entry an epoch or a boosting round that was evaluated."""
    visits_G: np.ndarray | None = None
    """int64: how many rows of each row group of the training snapshot were learned from, over all
    epochs; recorded in the version's ledger."""


class Strategy(Protocol):
    """How workers agree on one model."""

    def fit(self, job: TrainJob) -> Outcome: ...
