"""What clients change of a serve spec while it is served: models loaded, unloaded, replaced.

One record a model, so that two clients only meet where they mean the same model. On a cluster the records
are shared by all replicas, which apply them when they next look.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from raymill.config import Spec


class Override(Spec):
    """How one model is served otherwise than the spec says."""

    serve: tuple[str | int, ...] | None = None
    """In the place of the spec's; None leaves that."""
    unloaded: bool = False
    """Known, and not to answer until it is loaded again."""
    removed: bool = False
    """Not served at all."""
    change: str = ""
    """Names this change; see `Overrides.everywhere`."""


class Overrides(Protocol):
    """Records by model; written by one replica, read by all."""

    def read(self) -> Mapping[str, Override]: ...

    def write(self, model: str, override: Override) -> None: ...

    def applied(self, changes: Collection[str]) -> None:
        """Say that this replica serves by `changes`."""
        ...

    async def everywhere(self, changes: Collection[str]) -> None:
        """Wait until every replica has applied `changes`."""
        ...


class OwnOverrides:
    """Those of a process that serves alone."""

    def __init__(self) -> None:
        self._records: dict[str, Override] = {}

    def read(self) -> Mapping[str, Override]:
        return dict(self._records)

    def write(self, model: str, override: Override) -> None:
        self._records[model] = override

    def applied(self, changes: Collection[str]) -> None:
        pass

    async def everywhere(self, changes: Collection[str]) -> None:
        pass
