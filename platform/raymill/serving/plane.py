"""The serving core: which versions are loaded, and answers from them. Knows no wire protocol.

Requests read one immutable table, and a refresh replaces it in one assignment: a request sees the
old version or the new one, whole. A new version is fetched, checked, loaded and warmed before it
takes over; if it cannot be loaded the old one goes on serving.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from raymill.errors import InvalidInput, NotFound, RaymillError, Unavailable, nearest
from raymill.repo import LoadedVersion, Manifest, Repository, load_version
from raymill.serving.spec import ModelSpec
from raymill.serving.statistics import ModelStatistics

log = logging.getLogger(__name__)

State = Literal["LOADING", "AVAILABLE", "UNLOADING", "END"]


@dataclass(frozen=True)
class VersionStatus:
    """Where one version stands; `error` says why one that should serve does not."""

    number: int
    state: State
    error: str = ""


@dataclass(frozen=True)
class ServedModel:
    """Versions of one model that answer requests now."""

    default: int
    versions: Mapping[int, LoadedVersion]
    labels: Mapping[str, int]


@dataclass(frozen=True)
class Answer:
    """Outputs of one request, by name, with the version that gave them."""

    version: int
    outputs: dict[str, np.ndarray]


@dataclass(frozen=True)
class IndexEntry:
    """One version of one model, in the words of Triton's repository index."""

    name: str
    version: int | None
    """None for a model of which no version has been dealt with yet."""
    state: Literal["READY", "UNAVAILABLE", "LOADING", "UNLOADING"]
    reason: str


_INDEX_STATES: dict[State, Literal["READY", "UNAVAILABLE", "LOADING", "UNLOADING"]] = {
    "AVAILABLE": "READY", "LOADING": "LOADING", "UNLOADING": "UNLOADING", "END": "UNAVAILABLE",
}  # fmt: skip


@dataclass
class _Tracked:
    """What the plane remembers of one model between refreshes."""

    spec: ModelSpec
    statuses: dict[int, VersionStatus] = field(default_factory=dict)
    statistics: dict[int, ModelStatistics] = field(default_factory=dict)
    unloaded: bool = False
    """Whether somebody unloaded it, so that it stays away until it is loaded again."""


class Plane:
    """Models of a repository, loaded and kept at what their labels point at."""

    def __init__(self, repository: Repository, models: Mapping[str, ModelSpec]) -> None:
        self._repository = repository
        self._tracked = {name: _Tracked(spec) for name, spec in models.items()}
        self._served: dict[str, ServedModel] = {}
        self._refreshing = threading.Lock()

    def load(self) -> None:
        """Load everything that is to be served.

        Raises:
            RaymillError: a model, version or label that is not there, or a damaged version.
        """
        for name in self._tracked:
            self._refresh(name)

    def refresh(self) -> None:
        """Follow the labels. What cannot be loaded is logged and shown in the status; the old one stays."""
        for name in self._tracked:
            try:
                self._refresh(name)
            except (RaymillError, OSError) as error:
                log.error("model %s: %s; going on with what is loaded", name, error)

    def models(self) -> list[str]:
        """Return the names of all models, loaded or not."""
        return sorted(self._tracked)

    def served(self) -> Mapping[str, ServedModel]:
        """Return what answers now, by model."""
        return self._served

    def ready(self) -> bool:
        """Whether every model has a version that answers, but for those that were unloaded."""
        return all(name in self._served or tracked.unloaded for name, tracked in self._tracked.items())

    def model_ready(self, model: str, wanted: str | int | None = None) -> bool:
        """Whether a model, or one version of it, answers.

        Raises:
            NotFound: unknown model, version or label.
        """
        return any(status.state == "AVAILABLE" for status in self.status(model, wanted))

    def index(self) -> list[IndexEntry]:
        """Return where every version stands, by model; see `status` for one model."""
        entries = []
        for name in self.models():
            statuses = self.status(name)
            if not statuses:
                entries.append(IndexEntry(name, None, "UNAVAILABLE", "not loaded yet"))
            for status in statuses:
                reason = status.error or ("unloaded" if status.state == "END" else "")
                entries.append(IndexEntry(name, status.number, _INDEX_STATES[status.state], reason))
        return entries

    async def load_model(self, model: str) -> None:
        """Load a model, or follow its labels at once, as `refresh` does in its time.

        Raises:
            NotFound: a model that is not among those to serve.
            RaymillError: it cannot be loaded; what was loaded goes on serving.
        """
        self._known(model)
        await asyncio.to_thread(self._refresh, model, asked=True)

    async def unload_model(self, model: str) -> None:
        """Take a model away until it is loaded again; requests under way are answered.

        Raises:
            NotFound: a model that is not among those to serve.
        """
        tracked = self._known(model)
        await asyncio.to_thread(self._unload, model, tracked)

    def statistics(self, model: str | None = None, wanted: str | int | None = None) -> list[ModelStatistics]:
        """Return the counts of all loaded versions, of one model's, or of one version. Raises as `status`."""
        if model is None:
            return [found for name in self.models() for found in self.statistics(name)]
        tracked = self._known(model)
        numbers = [status.number for status in self.status(model, wanted)]
        return [tracked.statistics[number] for number in numbers if number in tracked.statistics]

    def status(self, model: str, wanted: str | int | None = None) -> list[VersionStatus]:
        """Return the status of all versions this plane has dealt with, newest first, or of one.

        Raises:
            NotFound: unknown model, version or label.
        """
        tracked = self._known(model)
        if wanted is None:
            return [tracked.statuses[number] for number in sorted(tracked.statuses, reverse=True)]
        number = wanted if isinstance(wanted, int) else self._label(model, wanted)
        if number not in tracked.statuses:
            raise NotFound(f"model {model!r} has no version {number} here; {self._have(model)}")
        return [tracked.statuses[number]]

    def manifest(self, model: str, wanted: str | int | None = None) -> tuple[int, Manifest]:
        """Return number and manifest of a loaded version. Raises as `infer` does."""
        number, loaded = self._pick(model, wanted)
        return number, loaded.version.manifest

    def classes(self, model: str, wanted: str | int | None = None) -> tuple[str, ...]:
        """Return the names of a classifier's classes, in the order of its scores.

        Raises:
            InvalidInput: the model is no classifier.
        """
        _, loaded = self._pick(model, wanted)
        if loaded.encoder.task == "binary":
            return ("0", "1")
        if loaded.encoder.task != "multiclass":
            raise InvalidInput(f"model {model!r} is no classifier: its task is {loaded.encoder.task}")
        return tuple(map(str, loaded.encoder.classes))

    async def infer(
        self,
        model: str,
        columns: Mapping[str, Sequence[Any] | np.ndarray],
        wanted: str | int | None = None,
    ) -> Answer:
        """Return the outputs for plain columns: a value a row, None for null, or arrays with a row a row.

        Args:
            wanted: Version number or label; None is the model's first-named one.

        Raises:
            NotFound: unknown model, version or label.
            Unavailable: the model is known, and none of its versions is loaded yet.
            InvalidInput: columns that do not fit the signature; the message names column and row.
        """
        number, loaded = self._pick(model, wanted)
        statistics = self._tracked[model].statistics[number]
        started = time.perf_counter_ns()
        try:
            features = loaded.encoder.encode_columns(columns)
            encoded = time.perf_counter_ns()
            scores = loaded.predictor.predict(features)
        except Exception:
            statistics.failed(time.perf_counter_ns() - started)
            raise
        statistics.executed(len(features), encoded - started, time.perf_counter_ns() - encoded)
        return Answer(number, {loaded.version.manifest.signature.outputs[0].name: scores})

    def _pick(self, model: str, wanted: str | int | None) -> tuple[int, LoadedVersion]:
        served = self._served.get(model)
        if served is None:
            if self._known(model).unloaded:
                raise NotFound(f"model {model!r} was unloaded; load it again to use it")
            raise Unavailable(f"model {model!r} has no loaded version yet; try again shortly")
        number = served.default if wanted is None else wanted
        if isinstance(number, str):
            number = self._label(model, number)
        loaded = served.versions.get(number)
        if loaded is None:
            raise NotFound(f"model {model!r} serves no version {number}; {self._have(model)}")
        return number, loaded

    def _label(self, model: str, label: str) -> int:
        served = self._served.get(model)
        if served is None or label not in served.labels:
            raise NotFound(f"model {model!r} serves no label {label!r}; {self._have(model)}")
        return served.labels[label]

    def _known(self, model: str) -> _Tracked:
        if model not in self._tracked:
            names = self.models()
            raise NotFound(f"model {model!r} is not served; have: {', '.join(names)}.{nearest(model, names)}")
        return self._tracked[model]

    def _have(self, model: str) -> str:
        served = self._served.get(model)
        if served is None:
            return "none is loaded yet"
        labels = ", ".join(f"{label} -> {number}" for label, number in served.labels.items())
        return f"versions: {', '.join(map(str, sorted(served.versions)))}; labels: {labels or 'none'}"

    def _refresh(self, name: str, *, asked: bool = False) -> None:
        with self._refreshing:
            tracked, old = self._tracked[name], self._served.get(name)
            if tracked.unloaded and not asked:
                return
            numbers = [self._repository.resolve(name, wanted) for wanted in tracked.spec.serve]
            labels = {
                wanted: number
                for wanted, number in zip(tracked.spec.serve, numbers, strict=True)
                if isinstance(wanted, str) and wanted != "latest" and not wanted.isdigit()
            }
            kept = dict(old.versions) if old else {}
            new = ServedModel(
                numbers[0],
                {number: kept.get(number) or self._load(name, number) for number in dict.fromkeys(numbers)},
                labels,
            )
            if old and (old.default, old.labels, set(old.versions)) == (
                new.default,
                labels,
                set(new.versions),
            ):
                return
            self._served[name], tracked.unloaded = new, False
            for gone in kept.keys() - new.versions.keys():
                tracked.statuses[gone] = VersionStatus(gone, "END")
            log.info("model %s: serving versions %s, labels %s", name, sorted(new.versions), labels)

    def _load(self, name: str, number: int) -> LoadedVersion:
        statuses = self._tracked[name].statuses
        statuses[number] = VersionStatus(number, "LOADING")
        try:
            version = self._repository.version(name, number)
            with tempfile.TemporaryDirectory(prefix="raymill-serve-") as directory:
                loaded = load_version(version, Path(directory))
        except Exception as error:
            statuses[number] = VersionStatus(number, "END", str(error))
            raise
        statuses[number] = VersionStatus(number, "AVAILABLE")
        self._tracked[name].statistics[number] = ModelStatistics(name, number)
        return loaded

    def _unload(self, name: str, tracked: _Tracked) -> None:
        with self._refreshing:
            tracked.unloaded = True
            served = self._served.pop(name, None)
            for number in served.versions if served else ():
                tracked.statuses[number] = VersionStatus(number, "END")
            log.info("model %s: unloaded", name)
