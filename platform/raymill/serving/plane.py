"""The serving core: which versions are loaded, and answers from them. Knows no wire protocol.

Requests read immutable tables, and a change replaces them in one assignment: a request sees the
old version or the new one, whole. Changes are made one after another. A new version is fetched, checked,
loaded and warmed before it takes over; if it cannot be loaded the old one goes on serving.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from raymill.errors import NotFound, RaymillError, Unavailable, nearest
from raymill.repo import Manifest, Repository
from raymill.serving.following import follow
from raymill.serving.memory import Memory
from raymill.serving.metrics import RequestMetrics
from raymill.serving.overrides import Override, Overrides, OwnOverrides
from raymill.serving.served import (
    Answer,
    IndexEntry,
    RemotePredict,
    ServedModel,
    ServedVersion,
    Tracked,
    VersionStatus,
    without,
)
from raymill.serving.spec import ModelSpec
from raymill.serving.statistics import ModelStatistics

__all__ = ["Answer", "IndexEntry", "Plane", "ServedModel", "ServedVersion", "VersionStatus"]

log = logging.getLogger(__name__)


class Plane:
    """Models of a repository, loaded and kept at what their labels point at.

    Args:
        overrides: Where changes that clients make are kept; by default they are this process's own.
        memory: The budget that the models share; by default none.
        metrics: Where requests are counted.
        remote: By model, what predicts in replicas of the model's own; others are loaded here.
    """

    def __init__(
        self,
        repository: Repository,
        models: Mapping[str, ModelSpec],
        *,
        overrides: Overrides | None = None,
        memory: Memory | None = None,
        metrics: RequestMetrics | None = None,
        remote: Mapping[str, RemotePredict] | None = None,
    ) -> None:
        self._repository = repository
        self._overrides, self._memory = overrides or OwnOverrides(), memory or Memory()
        self.metrics = metrics or RequestMetrics()
        self.observe = self.metrics.observe
        self._spec, self._remote = dict(models), remote or {}
        self._tracked = {name: Tracked(spec) for name, spec in models.items()}
        self._served: dict[str, ServedModel] = {}
        self._changing = threading.Lock()

    def load(self) -> None:
        """Load everything that is to be served, as far as it loads; `refresh` tries again what does not.

        Raises:
            Exception: of no model anything loads; it is the first one's.
        """
        with self._changing:
            records = self._overrides.read()
            errors = self._follow(records)
            if errors and len(errors) == len(self._tracked):
                raise errors[0]
            self._overrides.applied({record.change for record in records.values()})

    def refresh(self) -> None:
        """Follow the labels. What cannot be loaded is logged and shown in the status; the old one stays."""
        with self._changing:
            records = self._overrides.read()
            self._follow(records)
            self._overrides.applied({record.change for record in records.values()})

    def _follow(self, overrides: Mapping[str, Override]) -> list[Exception]:
        """Return the errors of the models of which nothing is loaded: one model's must not stop others."""
        self._apply(overrides)
        errors = []
        for name in self._tracked:
            try:
                self._refresh(name)
            except Exception as error:  # storage and frameworks raise what they like
                if name not in self._served:
                    errors.append(error)
        return errors

    def models(self) -> list[str]:
        """Return the names of all models, loaded or not."""
        return sorted(self._tracked)

    def serves(self, model: str) -> bool:
        """Whether a model is among those to serve, loaded or not."""
        return model in self._tracked

    def served(self) -> Mapping[str, ServedModel]:
        """Return what answers now, by model."""
        return self._served

    def spec(self, model: str) -> tuple[ModelSpec, bool]:
        """Return how a model is served, and whether that is so since the start. Raises as `status`."""
        return self._known(model).spec, model in self._spec

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
        return [entry for name, tracked in sorted(self._tracked.items()) for entry in tracked.entries(name)]

    async def load_model(self, model: str) -> None:
        """Load a model, or follow its labels at once, here and wherever else it is served.

        Raises:
            NotFound: a model that is not among those to serve.
            RaymillError: it cannot be loaded; what was loaded goes on serving.
        """
        await self._everywhere(partial(self._load_again, model))

    async def unload_model(self, model: str) -> None:
        """Take a model away until it is loaded again; requests under way are answered.

        Raises:
            NotFound: a model that is not among those to serve.
        """
        await self._everywhere(partial(self._unload, model))

    async def replace(self, models: Mapping[str, tuple[str | int, ...]]) -> None:
        """Serve exactly these models, at these labels and versions, from now on; others go.

        Raises:
            NotFound: one that is not in the repository; then nothing is changed.
            RaymillError: one that cannot be loaded; then nothing is changed either.
        """
        await self._everywhere(partial(self._replace, models))

    def statistics(self, model: str | None = None, wanted: str | int | None = None) -> list[ModelStatistics]:
        """Return the counts of all loaded versions, of one model's, or of one version. Raises as `status`."""
        if model is None:
            every = [served.versions.items() for _, served in sorted(self._served.items())]
            return [loaded.statistics for versions in every for _, loaded in sorted(versions, reverse=True)]
        numbers = [status.number for status in self.status(model, wanted)]
        served = self._served.get(model)
        versions = served.versions if served else {}
        return [versions[number].statistics for number in numbers if number in versions]

    def status(self, model: str, wanted: str | int | None = None) -> list[VersionStatus]:
        """Return the status of all versions this plane has dealt with, newest first, or of one.

        Raises:
            NotFound: unknown model, version or label.
        """
        tracked = self._known(model)
        if wanted is None:
            return tracked.newest_first()
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
        return loaded.classes()

    async def infer(
        self,
        model: str,
        columns: Mapping[str, Sequence[Any] | np.ndarray],
        wanted: str | int | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Answer:
        """Return the outputs for plain columns: a value a row, None for null, or arrays with a row a row.

        Args:
            wanted: Version number or label; None is the model's first-named one.
            timeout_s: Seconds the caller still waits; None is for ever.

        Raises:
            NotFound: unknown model, version or label.
            Exhausted: as many requests of the model as may are waiting.
            DeadlineExceeded: not answered within `timeout_s`.
            Unavailable: the model is known, and none of its versions is loaded yet.
            InvalidInput: columns that do not fit the signature; the message names column and row.
        """
        number, loaded = self._pick(model, wanted)
        started = time.perf_counter_ns()
        try:
            features = loaded.encoder.encode_columns(columns)
            scores = await loaded.predict(features, timeout_s, time.perf_counter_ns() - started)
        except (
            Exception,
            asyncio.CancelledError,
        ):  # as Triton, of one whose time is over or caller gone, too
            loaded.statistics.failed(time.perf_counter_ns() - started)
            raise
        return Answer(number, {loaded.version.manifest.signature.outputs[0].name: scores})

    def _pick(self, model: str, wanted: str | int | None) -> tuple[int, ServedVersion]:
        served = self._served.get(model)
        if served is None:
            tracked = self._known(model)
            if tracked.unloaded:
                raise NotFound(f"model {model!r} was unloaded; load it again to use it")
            why = "".join(f" ({error})" for error in tracked.failed.values())
            raise Unavailable(f"model {model!r} has no loaded version yet; try again shortly{why}")
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
            raise NotFound(f"model {model!r} serves no label {label!r:.60}; {self._have(model)}")
        return served.labels[label]

    def _known(self, model: str) -> Tracked:
        tracked = self._tracked.get(model)
        if tracked is None:
            names = self.models()
            raise NotFound(
                f"model {model!r:.60} is not served; have: {', '.join(names)}.{nearest(model, names)}"
            )
        return tracked

    def _have(self, model: str) -> str:
        served = self._served.get(model)
        return served.have() if served else "none is loaded yet"

    def _apply(self, overrides: Mapping[str, Override]) -> None:
        """Bring what is to be served in line with what clients changed."""
        for name, override in overrides.items():
            if override.removed:
                self._take_away(name)
                self._tracked = without(self._tracked, name)
                continue
            spec = self._spec.get(name, ModelSpec())
            if override.serve is not None:
                spec = spec.model_copy(update={"serve": override.serve})
            tracked = self._tracked.get(name) or Tracked(spec)
            self._tracked = self._tracked | {name: tracked}
            tracked.spec, tracked.unloaded = spec, override.unloaded
            if override.unloaded:
                self._take_away(name)

    def _take_away(self, name: str) -> None:
        served = self._served.get(name)
        self._served = without(self._served, name)
        for number, version in served.versions.items() if served else ():
            self._tracked[name].statuses[number] = VersionStatus(number, "END")
            self._memory.forget(version)
            log.info("model %s: version %s unloaded", name, number)

    async def _everywhere(self, change: Callable[[], list[str]]) -> None:
        """Make changes here, after those under way, then wait until other replicas have followed."""

        def here() -> list[str]:
            with self._changing:
                try:
                    changes = change()
                except RaymillError as error:
                    error.args = (self._told(error), *error.args[1:])
                    raise
                self._overrides.applied(changes)
                return changes

        await self._overrides.everywhere(await asyncio.to_thread(here))

    def _told(self, error: Exception) -> str:
        """Return what clients are told of an error: not where on our disks or stores the repository is."""
        root = self._repository.root
        return str(error).replace(root.uri, root.name)

    def _load_again(self, name: str) -> list[str]:
        self._known(name)
        changes = [self._change(name, unloaded=False)]
        self._refresh(name)
        return changes

    def _unload(self, name: str) -> list[str]:
        self._known(name)
        return [self._change(name, unloaded=True)]

    def _change(self, name: str, *, unloaded: bool) -> str:
        before = self._overrides.read().get(name, Override())
        change = self._write(name, before.model_copy(update={"unloaded": unloaded}))
        self._apply(self._overrides.read())
        return change

    def _write(self, name: str, override: Override) -> str:
        """Write a model's record, and return the name that the change got."""
        change = secrets.token_hex(8)
        self._overrides.write(name, override.model_copy(update={"change": change}))
        return change

    def _replace(self, models: Mapping[str, tuple[str | int, ...]]) -> list[str]:
        for name, serve in models.items():  # what is wrong shows before anything is changed
            for wanted in serve:
                served = self._served.get(name)
                for number in self._repository.resolve_all(name, wanted):
                    if served is None or number not in served.versions:
                        ServedVersion(self._repository.version(name, number), ModelSpec(), Memory())
        removed = {name: Override(removed=True) for name in self._tracked.keys() - models.keys()}
        replaced = {name: Override(serve=serve) for name, serve in models.items()}
        changes = [self._write(name, override) for name, override in (removed | replaced).items()]
        self._apply(self._overrides.read())
        for name in models:
            self._refresh(name)
        return changes

    def _refresh(self, name: str) -> None:
        """Serve of a model what its labels point at, as far as it is there and loads; see `follow`.

        Raises:
            Exception: the first reason why it is not all.
        """
        tracked, old = self._known(name), self._served.get(name)
        if tracked.unloaded:
            return
        versions = dict(old.versions) if old else {}

        def load(number: int) -> None:
            if number not in versions:
                versions[number] = self._load(name, number)

        serve = tracked.spec.serve
        found, failed = follow(self._repository, name, serve, old.found if old else {}, load)
        before, tracked.failed = tracked.failed, {wanted: self._told(why) for wanted, why in failed.items()}
        if found:
            self._serve(name, ServedModel.of(serve[0], found, versions, old), old)
        if failed:
            if tracked.failed != before:  # and not each time that the plane looks
                log.error("model %s: %s; going on with what is loaded", name, tracked.failed)
            raise next(iter(failed.values()))

    def _serve(self, name: str, new: ServedModel, old: ServedModel | None) -> None:
        if new == old:
            return
        tracked, self._served = self._tracked[name], self._served | {name: new}
        before, versions = (old.found, old.versions) if old else ({}, {})
        for gone, version in versions.items():
            if gone not in new.versions:
                why = [why for wanted, why in tracked.failed.items() if gone in before.get(wanted, ())]
                tracked.statuses[gone] = VersionStatus(gone, "END", "; ".join(why))
                self._memory.forget(version)
        log.info("model %s: serving versions %s, labels %s", name, sorted(new.versions), dict(new.labels))

    def _load(self, name: str, number: int) -> ServedVersion:
        tracked = self._tracked[name]
        tracked.statuses[number] = VersionStatus(number, "LOADING")
        try:
            loaded = ServedVersion(
                self._repository.version(name, number), tracked.spec, self._memory, self._remote.get(name)
            )
        except Exception as error:
            tracked.statuses[number] = VersionStatus(number, "END", self._told(error))
            raise
        tracked.statuses[number] = VersionStatus(number, "AVAILABLE")
        return loaded
