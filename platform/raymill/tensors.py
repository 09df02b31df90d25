"""Named, typed tensors: what a model takes and gives, in the terms of TF Serving, OIP and numpy."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from raymill.config import Spec

DType = Literal[
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "string",
]  # fmt: skip

DTYPES: tuple[str, ...] = get_args(DType)

TF_DTYPES: dict[str, str] = {
    "bool": "DT_BOOL", "int8": "DT_INT8", "int16": "DT_INT16", "int32": "DT_INT32", "int64": "DT_INT64",
    "uint8": "DT_UINT8", "uint16": "DT_UINT16", "uint32": "DT_UINT32", "uint64": "DT_UINT64",
    "float16": "DT_HALF", "float32": "DT_FLOAT", "float64": "DT_DOUBLE", "string": "DT_STRING",
}  # fmt: skip

OIP_DTYPES: dict[str, str] = {
    "bool": "BOOL", "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "float16": "FP16", "float32": "FP32", "float64": "FP64", "string": "BYTES",
}  # fmt: skip
"""In the terms of the Open Inference Protocol; strings are UTF-8."""


def numpy_dtype(dtype: str) -> np.dtype:
    """Return numpy's dtype for one of ours; strings are Python objects."""
    return _NUMPY_DTYPES[dtype]


_NUMPY_DTYPES = {dtype: np.dtype(object if dtype == "string" else dtype) for dtype in DTYPES}


class TensorSpec(Spec):
    """One named input or output."""

    name: str
    dtype: DType
    shape: tuple[int, ...] = (-1,)
    """-1 is any size; the first dimension is rows."""
    nullable: bool = False
    """Whether a row may leave it out with JSON null; only inputs with a null policy may."""
    categories: int | None = None
    """Number of known categories of a categorical input; None otherwise."""


class Signature(Spec):
    """Named inputs and outputs of one model, in the order the model takes and gives them."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
