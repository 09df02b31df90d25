"""The model repository: immutable versions, movable labels, nothing half-visible."""

from raymill.repo.manifest import Lineage, Manifest
from raymill.repo.repository import LabelEvent, Repository, Version
from raymill.repo.version import LoadedVersion, fetch, load_encoder, load_version, verify

__all__ = [
    "LabelEvent", "Lineage", "LoadedVersion", "Manifest", "Repository", "Version", "fetch", "load_encoder",
    "load_version", "verify",
]  # fmt: skip
