"""Continuing from a published version: its weights, its encoder, and what it has not learned from yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raymill.config import parse
from raymill.data import Ledger, Snapshot, parse_predicate, where, with_statistics
from raymill.data.incremental import IncrementalOrder
from raymill.errors import Conflict, NotFound, Unsupported
from raymill.features import Encoder
from raymill.flavors import FLAVORS
from raymill.repo import Repository, Version
from raymill.repo.manifest import ENCODER_FILE, LEDGER_FILE
from raymill.repo.version import fetch
from raymill.scratch import scratch
from raymill.train.spec import TrainSpec

INCREMENTAL = "incremental"


@dataclass(frozen=True)
class Base:
    """The version that a run continues from."""

    version: Version
    encoder: Encoder
    ledger: Ledger
    weights: Mapping[str, np.ndarray]


def readable(spec: TrainSpec, snapshot: Snapshot) -> Snapshot:
    """Return the training snapshot with the spec's predicate, and the statistics that its order needs.

    Raises:
        SpecError: a column or a value that the data does not have.
        DataError: no row matches.
    """
    if spec.read.where:
        snapshot = where(snapshot, parse_predicate(spec.read.where, snapshot.schema))
        print(f"train: {snapshot.rows:,} rows match the predicate", flush=True)
    order = spec.loader_config().make_order()
    return with_statistics(snapshot, getattr(order, "statistics_columns", []))


def find_base(spec: TrainSpec, repository: Repository) -> Base | None:
    """Return the labelled version, or the latest where no label is set; None where there is no version.

    Raises:
        Conflict: the version has no ledger, another flavor, or learned from other columns.
        Unsupported: models of the flavor cannot be continued.
    """
    try:
        number = repository.resolve(spec.model, spec.publish.label or "latest")
    except NotFound:
        return None
    version = repository.version(spec.model, number)
    what = f"version {number} of {spec.model!r}"
    if version.manifest.flavor != spec.flavor:
        raise Conflict(f"{what} is of flavor {version.manifest.flavor!r}, the spec says {spec.flavor!r}")
    with scratch("base") as folder:
        directory = fetch(version, folder)
        if not (directory / LEDGER_FILE).exists():
            raise Conflict(f"{what} has no ledger of its training data; train once with order full")
        ledger = Ledger.from_json(json.loads((directory / LEDGER_FILE).read_text(encoding="utf-8")))
        encoder = Encoder.model_validate_json((directory / ENCODER_FILE).read_bytes())
        weights = _weights(spec.flavor, directory)
    _check_columns(spec, encoder, what)
    return Base(version, encoder, ledger, weights)


def mark(spec: TrainSpec, snapshot: Snapshot, base: Base | None) -> Snapshot:
    """Return the snapshot with the row groups that `base` learned from marked as known.

    Raises:
        Conflict: files were rewritten or are gone, and the order's policy is error.
    """
    order: IncrementalOrder = parse(IncrementalOrder, spec.read.options)
    ledger = base.ledger if base else Ledger()
    marked = ledger.mark(snapshot, rewritten=order.rewritten, vanished=order.vanished)
    known_G = marked.group_known_G
    if known_G is not None:
        new = int(snapshot.group_rows_G[~known_G].sum())
        print(f"train: {new:,} rows are new since {_name(base)}", flush=True)
    return marked


def is_nothing_new(snapshot: Snapshot) -> bool:
    """Return whether every row of a marked snapshot is known."""
    known_G = snapshot.group_known_G
    return known_G is not None and not snapshot.group_rows_G[~known_G].any()


def _name(base: Base | None) -> str:
    return f"version {base.version.number}" if base else "the beginning: no version yet"


def _weights(flavor: str, directory: Path) -> Mapping[str, np.ndarray]:
    loaded: Any = FLAVORS.load(flavor)()
    if not hasattr(loaded, "weights"):
        raise Unsupported(
            f"models of flavor {flavor!r} cannot be continued from their file; use read order full, "
            "or a torch flavor"
        )
    weights: Mapping[str, np.ndarray] = loaded.weights(directory)
    return weights


def _check_columns(spec: TrainSpec, encoder: Encoder, what: str) -> None:
    was = (encoder.names, encoder.target, encoder.task)
    now = (list(spec.data.features), spec.data.target, spec.task)
    if was != now:
        raise Conflict(
            f"{what} learned features, target and task {was}, the spec says {now}; an incremental run "
            "keeps them: correct the spec, or train anew with order full"
        )
