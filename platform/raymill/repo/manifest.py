"""What a version says of itself: `manifest.json`, written last, and the golden rows."""

from __future__ import annotations

from typing import Any

from raymill.config import Spec
from raymill.evaluation import Task
from raymill.tensors import Signature

MANIFEST_FILE = "manifest.json"
ENCODER_FILE = "encoder.json"
GOLDEN_FILE = "golden.json"
LEDGER_FILE = "ledger.json"
"""Which row groups the version has learned from; see raymill.data.ledger."""


class FileEntry(Spec):
    """One file of a version."""

    path: str
    bytes: int
    sha256: str


class Code(Spec):
    """Which code trained the model."""

    sha256: str
    """Over the package's sources; equal code has an equal hash, with or without git."""
    commit: str | None
    """Git commit, where one is known to hold exactly this code; else null."""


class Lineage(Spec):
    """From a version back to what made it."""

    run: str
    snapshots: dict[str, str]
    """Dataset role (train, validation, test) to snapshot id."""
    data: dict[str, str]
    """Dataset role to the path or URI that was read."""
    spec: dict[str, Any]
    """The whole train spec, defaults included."""
    study: str | None = None
    """Study and trial that found the hyper-parameters, as "study/trial"; null where none did."""
    seed: int
    code: Code
    packages: dict[str, str]
    """Versions of Python and of the libraries that trained."""


class Manifest(Spec):
    """The self-description of a published version."""

    format: int = 1
    model: str
    flavor: str
    task: Task
    created: str
    """UTC, ISO 8601."""
    signature: Signature
    metrics: dict[str, dict[str, float]]
    """Dataset role to metric to value, each over the whole dataset."""
    lineage: Lineage
    files: tuple[FileEntry, ...]
    """Every file but this one."""


class Golden(Spec):
    """Rows with the predictions they must give, whoever loads the version."""

    inputs: dict[str, list[Any]]
    """Raw columns."""
    scores: list[Any]
    tolerance: float
