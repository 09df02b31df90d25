"""A replica that holds one model alone, for `placement: own`; the ingress encodes, this predicts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np

from raymill.errors import RaymillError, Unavailable
from raymill.features import Features
from raymill.repo import Repository
from raymill.serving.following import Found, Wanted, follow
from raymill.serving.memory import Memory
from raymill.serving.overrides import Override
from raymill.serving.served import ServedVersion
from raymill.serving.spec import ModelSpec

log = logging.getLogger(__name__)

KEEP_S = 120.0
"""Seconds for which a version stays that is no longer to be served and was asked for: those who ask may
have looked before, and to load it for each request would take as long as many requests."""


class ModelHost:
    """Ready once what is to be served is loaded and proven; follows labels and clients ahead of need.

    A version that is asked for and not here, because the one who asks looked at the labels before or after,
    is loaded then. One that is scaled from zero comes up although nothing loads, and tells each request why,
    which would otherwise wait for a replica for ever; others raise, so that Serve keeps those that run.

    Args:
        override: Returns what clients changed of the model.
    """

    def __init__(
        self,
        repository: str,
        name: str,
        model: dict[str, Any],
        poll_seconds: float,
        override: Callable[[], Override] = Override,
    ) -> None:
        self._repository, self._name, self._override = Repository(repository), name, override
        self._spec, self._poll_s = ModelSpec.model_validate(model), poll_seconds
        self._versions: dict[int, ServedVersion] = {}
        self._asked: dict[int, float] = {}
        self._coming: dict[int, asyncio.Task[ServedVersion]] = {}
        self._found: Found = {}
        self._failed: dict[Wanted, str] = {}
        error = self._look(self._hold)
        if error and not self._versions and self._spec.own.autoscaling.min_replicas:
            raise error
        self._loop = asyncio.get_running_loop()
        self._follower = self._loop.create_task(self._follow())

    async def predict(
        self, number: int, numeric_NF: np.ndarray, codes_NC: np.ndarray, timeout_s: float | None
    ) -> np.ndarray | RaymillError:
        """Return the scores of encoded rows, or the error, which keeps its type on the way."""
        self._asked[number] = time.monotonic()
        try:
            version = self._versions.get(number) or await self._on_demand(number)
            return await version.predict(Features(numeric_NF, codes_NC), timeout_s, 0)
        except RaymillError as error:
            return error

    async def wake(self) -> None:
        """Do nothing, in a replica that is up."""

    async def check_health(self) -> None:
        """Raise, so that Serve replaces this replica, if it no longer follows the labels."""
        if self._follower.done():
            self._follower.result()
            raise RuntimeError("the task that follows labels has ended")

    def _look(self, load: Callable[[int], object]) -> Exception | None:
        """Load what is to be served, as far as it loads; returns the first reason why it is not all."""
        override = self._override()
        if override.unloaded or override.removed:
            self._found = {}
            return None
        serve = self._spec.serve if override.serve is None else override.serve
        self._found, failed = follow(self._repository, self._name, serve, self._found, load)
        before, self._failed = self._failed, {wanted: str(error) for wanted, error in failed.items()}
        if self._failed not in ({}, before):  # and not each time
            log.error("model %s: %s; going on with what is loaded", self._name, self._failed)
        return next(iter(failed.values()), None)

    def _load(self, number: int) -> ServedVersion:
        return ServedVersion(self._repository.version(self._name, number), self._spec, Memory())

    def _hold(self, number: int) -> None:
        if number not in self._versions:
            self._versions[number] = self._load(number)

    async def _on_demand(self, number: int) -> ServedVersion:
        try:
            return await self._version(number)
        except Exception as error:  # frameworks raise what they like
            root = self._repository.root
            why = str(error).replace(root.uri, root.name)
            raise Unavailable(f"version {number} of model {self._name!r} does not load: {why}") from error

    async def _version(self, number: int) -> ServedVersion:
        """Load a version once, however many requests wait for it."""
        if number in self._versions:
            return self._versions[number]
        if number not in self._coming:
            self._coming[number] = asyncio.create_task(asyncio.to_thread(self._load, number))
        try:
            version = self._versions[number] = await asyncio.shield(self._coming[number])
        finally:
            self._coming.pop(number, None)
        return version

    def _from_thread(self, number: int) -> None:
        asyncio.run_coroutine_threadsafe(self._version(number), self._loop).result()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await asyncio.to_thread(self._look, self._from_thread)
                self._let_go()
            except Exception as error:  # the cluster's store is away
                log.error("model %s: %r; going on with what is loaded", self._name, error)

    def _let_go(self) -> None:
        """Drop the versions that are neither to be served nor were asked for of late."""
        since = time.monotonic() - KEEP_S
        self._asked = {number: at for number, at in self._asked.items() if at > since}
        for number in self._versions.keys() - {*chain.from_iterable(self._found.values()), *self._asked}:
            del self._versions[number]
