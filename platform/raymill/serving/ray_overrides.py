"""What clients change at run time, shared by all replicas through the cluster's key-value store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from ray.experimental import internal_kv

from raymill.serving.overrides import Override
from raymill.serving.spec import ServeSpec

NAMESPACE = b"raymill-serving"


class ClusterOverrides:
    """Records that live as long as the cluster serves this very spec; another one begins anew."""

    def __init__(self, spec: ServeSpec) -> None:
        digest = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:16]
        self._prefix = f"{digest}/".encode()

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
