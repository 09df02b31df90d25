"""Triton's model configuration extension: what a model is, under the names of its `ModelConfig` message.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_configuration.md
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raymill.repo import Manifest
from raymill.tensors import OIP_DTYPES, TensorSpec


def model_config(model: str, version: int, manifest: Manifest) -> dict[str, Any]:
    """Return the fields that have a meaning here, as the message's JSON form."""
    return {
        "name": model,
        "platform": f"raymill_{manifest.flavor}",
        "backend": manifest.flavor,
        "max_batch_size": 0,  # the first size of every shape is rows
        "version_policy": {"specific": {"versions": [version]}},
        "input": _tensors(manifest.signature.inputs),
        "output": _tensors(manifest.signature.outputs),
    }


def _tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [
        {"name": spec.name, "data_type": _data_type(OIP_DTYPES[spec.dtype]), "dims": list(spec.shape)}
        for spec in specs
    ]


def _data_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
