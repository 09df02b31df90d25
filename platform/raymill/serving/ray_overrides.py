"""What clients change at run time, shared by all replicas through the cluster's key-value store."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Mapping

from ray.experimental import internal_kv

from raymill.serving.overrides import Override

log = logging.getLogger(__name__)

NAMESPACE = b"raymill-serving"
WAIT_S = 30.0
"""How long a client that loads or unloads a model waits for replicas that it did not ask."""


class ClusterOverrides:
    """Records that live as long as a deployment; the next one begins anew, be it of the same spec.

    Args:
        deployment: Names the deployment; the same in all its replicas, whenever they start.
        replicas: Returns how many replicas answer now.
    """

    def __init__(self, deployment: str, replicas: Callable[[], int]) -> None:
        self._deployment = f"{deployment}/".encode()
        self._prefix, self._applying = self._deployment + b"records/", self._deployment + b"applied/"
        self._replicas, self._own, self._applied = replicas, secrets.token_bytes(8), set[str]()

    def read(self) -> Mapping[str, Override]:
        found = {}
        for key in internal_kv._internal_kv_list(self._prefix, namespace=NAMESPACE):
            value = internal_kv._internal_kv_get(key, namespace=NAMESPACE)
            if value is not None:
                name = key.removeprefix(self._prefix).decode()
                found[name] = Override.model_validate_json(value)
        return found

    def write(self, model: str, override: Override) -> None:
        key = self._prefix + model.encode()
        internal_kv._internal_kv_put(
            key, override.model_dump_json().encode(), overwrite=True, namespace=NAMESPACE
        )

    def forget_others(self) -> None:
        """Delete what is left of other deployments; their replicas, on their way out, know it by heart."""
        for key in internal_kv._internal_kv_list(b"", namespace=NAMESPACE):
            if not key.startswith(self._deployment):
                internal_kv._internal_kv_del(key, namespace=NAMESPACE)

    def applied(self, changes: Collection[str]) -> None:
        for change in set(changes) - self._applied:
            internal_kv._internal_kv_put(self._key(change) + self._own, b"", namespace=NAMESPACE)
            self._applied.add(change)

    async def everywhere(self, changes: Collection[str]) -> None:
        """Wait until as many replicas as answer have applied those of `changes` that still hold.

        One that hangs, or takes longer to load a model than WAIT_S, is left to follow in its own time.
        """
        try:
            async with asyncio.timeout(WAIT_S):
                while not await asyncio.to_thread(self._have_all, changes):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            log.warning("not every replica has followed a change within %g s", WAIT_S)
        for change in changes:
            internal_kv._internal_kv_del(self._key(change), del_by_prefix=True, namespace=NAMESPACE)

    def _have_all(self, changes: Collection[str]) -> bool:
        replicas, hold = self._replicas(), {record.change for record in self.read().values()}
        return all(
            len(internal_kv._internal_kv_list(self._key(change), namespace=NAMESPACE)) >= replicas
            for change in hold.intersection(changes)
        )

    def _key(self, change: str) -> bytes:
        return self._applying + f"{change}/".encode()


def _nobody() -> int:
    return 0


def override_of(deployment: str, model: str) -> Override:
    """Return what clients changed of one model."""
    return ClusterOverrides(deployment, _nobody).read().get(model, Override())
