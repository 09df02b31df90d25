"""Bringing a version to this machine, checking every byte, and loading it ready to predict."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pyarrow.fs import FileType

from raymill.config import Spec
from raymill.errors import Corrupt, InvalidInput, NotFound, Unavailable
from raymill.features import Encoder
from raymill.flavors import FLAVORS, Predictor
from raymill.repo.manifest import ENCODER_FILE, GOLDEN_FILE, MANIFEST_FILE, FileEntry, Golden
from raymill.repo.repository import Version
from raymill.scratch import scratch
from raymill.storage import Location

S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class LoadedVersion:
    """A version in memory."""

    version: Version
    encoder: Encoder
    predictor: Predictor

    def predict_columns(self, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> np.ndarray:
        """Return float32 scores of plain columns. Raises as `Encoder.encode_columns` does."""
        return self.predictor.predict(self.encoder.encode_columns(columns))


def load_encoder(version: Version) -> Encoder:
    """Return a version's encoder, without its model; raises as `load_version` does."""
    with scratch("encoder") as directory:
        fetch(version, directory, only=ENCODER_FILE)
        return _read(Encoder, directory / ENCODER_FILE)


def fetch(version: Version, directory: Path, only: str | None = None) -> Path:
    """Copy a version's files, or one of them, into a local directory and return it, every hash checked.

    Raises:
        Corrupt: a file is missing, or its bytes are not those that were published.
        Unavailable: the storage cannot be read now.
    """
    for entry in version.manifest.files:
        if only is not None and entry.path != only:
            continue
        source = _source(version, entry)
        try:
            data = source.read_bytes()
        except (OSError, NotFound) as error:  # NotFound: it was there just before
            raise Unavailable(f"{source.uri!r} cannot be read now: {error}; try again") from error
        _check_hash(source, hashlib.sha256(data).hexdigest(), entry)
        target = directory / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return directory


def verify(version: Version) -> None:
    """Read every byte of a version where it lies, and load nothing.

    Raises:
        Corrupt: a file is missing, or its bytes are not those that were published.
    """
    for entry in version.manifest.files:
        source = _source(version, entry)
        size = int(source.info().size)
        if size != entry.bytes:  # told before gigabytes are read
            raise Corrupt(
                f"{source.uri!r} has {size} bytes, its manifest says {entry.bytes}; "
                "the version is damaged, publish it again"
            )
        _check_hash(source, source.sha256(), entry)


def _source(version: Version, entry: FileEntry) -> Location:
    if not entry.path or ".." in entry.path.split("/") or entry.path.startswith("/"):
        raise Corrupt(f"manifest of {version.location.uri!r} names {entry.path!r}, which leaves its folder")
    source = version.location / entry.path
    try:
        there = source.info().type == FileType.File
        whole = there or (version.location / MANIFEST_FILE).exists()
    except OSError as error:
        raise Unavailable(f"{source.uri!r} cannot be read now: {error}; try again") from error
    if not whole:  # damage rarely takes both, and a disk or a share that is away does
        raise Unavailable(f"neither {source.uri!r} nor its version's manifest is there now; try again")
    if not there:
        raise Corrupt(f"{source.uri!r} is missing; the version is damaged, publish it again")
    return source


def _check_hash(source: Location, found: str, entry: FileEntry) -> None:
    if found != entry.sha256:
        raise Corrupt(
            f"{source.uri!r} has SHA-256 {found[:12]}..., its manifest says {entry.sha256[:12]}...; "
            "the version is damaged, publish it again"
        )


def load_version(version: Version, directory: Path) -> LoadedVersion:
    """Fetch a version into `directory`, load it and prove it on its golden rows.

    Raises:
        Corrupt: damaged files, or golden rows that predict otherwise here.
    """
    fetch(version, directory)
    encoder = _read(Encoder, directory / ENCODER_FILE)
    predictor = FLAVORS.load(version.manifest.flavor)().load(directory, encoder)
    check_golden(directory, encoder, predictor)
    return LoadedVersion(version, encoder, predictor)


def _read(spec: type[S], path: Path) -> S:
    try:
        return spec.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Corrupt(f"{path} cannot be read: {error}; the version is damaged, publish it again") from error


def check_golden(directory: Path, encoder: Encoder, predictor: Predictor) -> None:
    """Predict the golden rows of `directory`.

    Raises:
        Corrupt: a prediction differs by more than the golden file's tolerance.
    """
    golden = _read(Golden, directory / GOLDEN_FILE)
    expected = np.asarray(golden.scores, np.float32)
    if len(expected) == 0:
        raise Corrupt(f"there are no golden rows in {directory / GOLDEN_FILE}; nothing would prove the model")
    try:
        scores = predictor.predict(encoder.encode_columns(golden.inputs))
    except InvalidInput as error:
        raise Corrupt(f"golden rows of {directory} do not fit its encoder: {error}") from error
    worst = float(np.abs(scores - expected).max()) if scores.shape == expected.shape else float("inf")
    if not worst <= golden.tolerance:
        raise Corrupt(
            f"golden rows predict otherwise here: largest difference {worst:g}, allowed {golden.tolerance:g} "
            f"({directory}); the model file, the encoder or a library is not the published one"
        )
