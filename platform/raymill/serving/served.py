"""What the plane serves: versions in memory or on call, and the words in which it says how they stand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import Literal, TypeVar

import numpy as np

from raymill.errors import DeadlineExceeded, InvalidInput
from raymill.features import Encoder, Features
from raymill.flavors import FLAVORS
from raymill.repo import Version, load_encoder, load_version
from raymill.scratch import scratch
from raymill.serving.batching import Batcher
from raymill.serving.memory import Memory
from raymill.serving.spec import ModelSpec
from raymill.serving.statistics import ModelStatistics

RemotePredict = Callable[[int, Features, float | None], Awaitable[np.ndarray]]
"""Returns the scores of a version's features from replicas of the model's own, within a timeout."""

T = TypeVar("T")
State = Literal["LOADING", "AVAILABLE", "UNLOADING", "END"]


@dataclass(frozen=True)
class VersionStatus:
    """Where one version stands; `error` says why one that should serve does not."""

    number: int
    state: State
    error: str = ""


@dataclass(frozen=True)
class IndexEntry:
    """One version of one model, in the words of Triton's repository index."""

    name: str
    version: int | None
    """None for a model of which no version has been dealt with yet."""
    state: Literal["READY", "UNAVAILABLE", "LOADING", "UNLOADING"]
    reason: str


INDEX_STATES: dict[State, Literal["READY", "UNAVAILABLE", "LOADING", "UNLOADING"]] = {
    "AVAILABLE": "READY", "LOADING": "LOADING", "UNLOADING": "UNLOADING", "END": "UNAVAILABLE",
}  # fmt: skip


def version_or_label(named: str | None) -> str | int | None:
    """Return the version number or the label that a request names; None where it names neither."""
    if named and named.isascii() and named.isdigit() and len(named) < 19:  # others' digits are no number
        return int(named)
    return named or None


class ServedVersion:
    """A version that answers; its encoder stays in memory, its model may be dropped and comes back on use."""

    def __init__(
        self, version: Version, spec: ModelSpec, memory: Memory, remote: RemotePredict | None = None
    ) -> None:
        self.version, self._spec, self._memory, self._remote = version, spec, memory, remote
        self.statistics = ModelStatistics(version.manifest.model, version.number)
        files = {entry.path: entry.bytes for entry in version.manifest.files}
        self.bytes = FLAVORS.load(version.manifest.flavor)().resident_bytes(files)
        self._batcher: Batcher | None = None
        self._coming: asyncio.Task[Batcher] | None = None
        self.encoder: Encoder
        self.loaded_at = datetime.now(UTC)
        if remote is None:
            self.load()
        else:
            self.encoder = load_encoder(version)

    def load(self) -> Batcher:
        """Fetch, check, load and warm the version; returns the queue of its model.

        Raises:
            Corrupt: see `load_version`, whose golden rows are the warm-up.
        """
        with scratch("serve") as directory:
            loaded = load_version(self.version, directory)
        self.encoder = loaded.encoder
        batcher = Batcher(
            loaded.predictor.predict, self._spec.batching, self._spec.max_queued_requests, self.statistics
        )
        self._batcher, self.loaded_at = batcher, datetime.now(UTC)
        self._memory.hold(self)
        return batcher

    @property
    def in_memory(self) -> bool:
        return self._batcher is not None

    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, in the order of their scores. Raises InvalidInput without any."""
        if self.encoder.task == "binary":
            return ("0", "1")
        if self.encoder.task != "multiclass":
            model, task = self.version.manifest.model, self.encoder.task
            raise InvalidInput(f"model {model!r} is no classifier: its task is {task}")
        return tuple(map(str, self.encoder.classes))

    def drop(self) -> None:
        """Let go of the model; requests in its queue are still answered."""
        self._batcher = None

    async def predict(self, features: Features, timeout_s: float | None, input_ns: int) -> np.ndarray:
        """Return scores. Raises as `Batcher.predict` and, where the model has to come back, `load` do."""
        if self._remote is not None:
            started = time.perf_counter_ns()
            scores = await self._remote(self.version.number, features, timeout_s)
            self.statistics.answered(1, input_ns, 0, time.perf_counter_ns() - started)
            self.statistics.executed(len(features))
            return scores
        batcher = self._batcher
        if batcher is None:
            try:
                async with asyncio.timeout(timeout_s):
                    batcher = await self._come_back()
            except TimeoutError as error:
                raise DeadlineExceeded(
                    f"the model was not loaded within the request's {timeout_s:g} s"
                ) from error
        self._memory.used(self)
        return await batcher.predict(features, timeout_s, input_ns)

    async def _come_back(self) -> Batcher:
        """Load the model once, however many requests wait for it."""
        if self._coming is None:
            self._coming = asyncio.create_task(asyncio.to_thread(self.load))
            self._coming.add_done_callback(self._came)
        return await asyncio.shield(self._coming)

    def _came(self, _: object) -> None:
        self._coming = None


@dataclass(frozen=True)
class ServedModel:
    """Versions of one model that answer requests now."""

    default: int
    found: Mapping[str | int, tuple[int, ...]]
    """By what the spec names: the versions that are served of it."""
    versions: Mapping[int, ServedVersion]
    labels: Mapping[str, int]

    @classmethod
    def of(
        cls,
        first: str | int,
        found: Mapping[str | int, tuple[int, ...]],
        loaded: Mapping[int, ServedVersion],
        old: ServedModel | None,
    ) -> ServedModel:
        """Return the model; where `first` is gone, what answered who names none still does."""
        default = old.default if old and first not in found else next(iter(found.values()))[0]
        numbers = {default, *chain.from_iterable(found.values())}
        labels = {str(wanted): number for wanted, (number, *_) in found.items() if is_label(wanted)}
        return cls(default, found, {number: loaded[number] for number in numbers}, labels)

    def have(self) -> str:
        """Return what there is, for messages."""
        labels = ", ".join(f"{label} -> {number}" for label, number in self.labels.items())
        return f"versions: {', '.join(map(str, sorted(self.versions)))}; labels: {labels or 'none'}"


@dataclass(slots=True)
class Answer:
    """Outputs of one request, by name, with the version that gave them."""

    version: int
    outputs: dict[str, np.ndarray]


@dataclass
class Tracked:
    """What the plane remembers of one model between refreshes."""

    spec: ModelSpec
    statuses: dict[int, VersionStatus] = field(default_factory=dict)
    failed: dict[str | int, str] = field(default_factory=dict)
    """By what the spec names: why it is not, or not all, as it should be."""
    unloaded: bool = False
    """Whether somebody unloaded it, so that it stays away until it is loaded again."""

    def newest_first(self) -> list[VersionStatus]:
        return [self.statuses[number] for number in sorted(self.statuses, reverse=True)]

    def entries(self, name: str) -> list[IndexEntry]:
        if not self.statuses:
            reason = "; ".join(self.failed.values()) or "not loaded yet"
            return [IndexEntry(name, None, "UNAVAILABLE", reason)]
        return [
            IndexEntry(
                name, status.number, INDEX_STATES[status.state],
                status.error or ("unloaded" if status.state == "END" else ""),
            )
            for status in self.newest_first()
        ]  # fmt: skip


def without(table: dict[str, T], name: str) -> dict[str, T]:
    """Return a table without one name; those who read `table` do not notice."""
    return {other: value for other, value in table.items() if other != name}


def is_label(wanted: str | int) -> bool:
    """Whether what a spec serves is a label, and neither a number nor a form of "latest"."""
    return isinstance(wanted, str) and not wanted.isdigit() and wanted.partition(":")[0] != "latest"
