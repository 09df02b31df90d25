"""What clients change at run time, shared by all replicas through the cluster's key-value store."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable, Collection, Mapping

from ray.experimental import internal_kv

from raymill.serving.overrides import Override
from raymill.serving.spec import ServeSpec

log = logging.getLogger(__name__)

NAMESPACE = b"raymill-serving"
WAIT_S = 30.0
"""How long a client that loads or unloads a model waits for replicas that it did not ask."""


class ClusterOverrides:
    """Records that live as long as the cluster serves this very spec; another one begins anew.

    Args:
        replicas: Returns how many replicas answer now.
    """

    def __init__(self, spec: ServeSpec, replicas: Callable[[], int]) -> None:
        digest = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:16]
        self._prefix = f"{digest}/".encode()
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

    def applied(self, changes: Collection[str]) -> None:
        for change in set(changes) - self._applied:
            internal_kv._internal_kv_put(_applied(change) + self._own, b"", namespace=NAMESPACE)
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
            internal_kv._internal_kv_del(_applied(change), del_by_prefix=True, namespace=NAMESPACE)

    def _have_all(self, changes: Collection[str]) -> bool:
        replicas, hold = self._replicas(), {record.change for record in self.read().values()}
        return all(
            len(internal_kv._internal_kv_list(_applied(change), namespace=NAMESPACE)) >= replicas
            for change in hold.intersection(changes)
        )


def _applied(change: str) -> bytes:
    return f"applied/{change}/".encode()
