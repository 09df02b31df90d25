"""A replica that holds one model alone, for `placement: own`; the ingress encodes, this predicts."""

from __future__ import annotations

import asyncio
import logging
from itertools import chain
from typing import Any

import numpy as np

from raymill.errors import RaymillError
from raymill.features import Features
from raymill.repo import Repository
from raymill.serving.logs import write_logs
from raymill.serving.memory import Memory
from raymill.serving.served import ServedVersion
from raymill.serving.spec import ModelSpec

log = logging.getLogger(__name__)


class ModelHost:
    """Ready once the versions that the spec serves are loaded and proven; follows the labels ahead of need.

    A version that is asked for and not here, because the one who asks looked at the labels before or after,
    is loaded then.
    """

    def __init__(self, repository: str, name: str, model: dict[str, Any], poll_seconds: float) -> None:
        write_logs(name)
        self._repository, self._name = Repository(repository), name
        self._spec, self._poll_s = ModelSpec.model_validate(model), poll_seconds
        self._versions: dict[int, ServedVersion] = {}
        self._coming: dict[int, asyncio.Task[ServedVersion]] = {}
        for number in self._wanted():
            self._versions[number] = self._load(number)
        self._follower = asyncio.get_running_loop().create_task(self._follow())

    async def predict(
        self, number: int, numeric_NF: np.ndarray, codes_NC: np.ndarray, timeout_s: float | None
    ) -> np.ndarray | RaymillError:
        """Return the scores of encoded rows, or the error, which keeps its type on the way."""
        try:
            version = self._versions.get(number) or await self._version(number)
            return await version.predict(Features(numeric_NF, codes_NC), timeout_s, 0)
        except RaymillError as error:
            return error

    async def check_health(self) -> None:
        """Raise, so that Serve replaces this replica, if it no longer follows the labels."""
        if self._follower.done():
            self._follower.result()
            raise RuntimeError("the task that follows labels has ended")

    def _wanted(self) -> list[int]:
        wanted = (self._repository.resolve_all(self._name, wanted) for wanted in self._spec.serve)
        return list(dict.fromkeys(chain.from_iterable(wanted)))

    def _load(self, number: int) -> ServedVersion:
        return ServedVersion(self._repository.version(self._name, number), self._spec, Memory())

    async def _version(self, number: int) -> ServedVersion:
        """Load a version once, however many requests wait for it."""
        if number not in self._coming:
            self._coming[number] = asyncio.create_task(asyncio.to_thread(self._load, number))
        try:
            version = self._versions[number] = await asyncio.shield(self._coming[number])
        finally:
            self._coming.pop(number, None)
        return version

    async def _follow(self) -> None:
        before: list[int] = []
        while True:
            try:
                wanted = await asyncio.to_thread(self._wanted)
                for number in wanted:
                    if number not in self._versions:
                        await self._version(number)
                for number in self._versions.keys() - {*wanted, *before}:  # one round for those who ask late
                    del self._versions[number]
                before = wanted
            except Exception as error:  # storage and frameworks raise what they like
                log.error("model %s: %r; going on with what is loaded", self._name, error)
            await asyncio.sleep(self._poll_s)
