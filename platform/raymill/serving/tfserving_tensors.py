"""Tensors and examples of TensorFlow Serving's gRPC messages to columns, and outputs back.

https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/framework/tensor.proto
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raymill.errors import InvalidInput
from raymill.serving import packed
from raymill.serving.proto import tfserving_messages_pb2 as pb
from raymill.tensors import Signature, TensorSpec, numpy_dtype

Column = Sequence[Any] | np.ndarray

DT = {
    "float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "string": 7, "int64": 9,
    "bool": 10, "uint16": 17, "float16": 19, "uint32": 22, "uint64": 23,
}  # fmt: skip
"""Numbers of DataType, https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/framework/types.proto."""
_DTYPES = {number: dtype for dtype, number in DT.items()}
_FIELDS = {
    "float32": "float_val", "float64": "double_val", "int32": "int_val", "uint8": "int_val",
    "int16": "int_val", "int8": "int_val", "uint16": "int_val", "int64": "int64_val", "bool": "bool_val",
    "float16": "half_val", "uint32": "uint32_val", "uint64": "uint64_val",
}  # fmt: skip


MAX_FILLED_BYTES = 64 << 20
"""What all inputs of a request may be that were not sent, for a tensor repeats its last value up to its
shape: as much as the largest message that is taken by default."""


def column(name: str, tensor: Any, spec: TensorSpec | None, max_filled_bytes: int) -> Column:
    """Return one input as a column: [rows], or [rows, width] for a vector; [rows, 1] is [rows].

    Raises OneByOne as `packed.find_strays` does.

    Args:
        max_filled_bytes: Largest column that is made of fewer values than it has.

    Raises:
        InvalidInput: names the input, and what its dtype, shape or number of values should be.
    """
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise InvalidInput(f"input {name!r} has dtype {tensor.dtype}; have: {', '.join(DT)}")
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if spec is None:  # the encoder says which inputs there are
        return ()
    wanted = spec.shape[1:]
    if len(shape) not in (len(spec.shape), 2) or tuple(shape[1:]) not in (wanted, wanted or (1,)):
        raise InvalidInput(f"input {name!r} has shape {shape}, the model takes {list(spec.shape)}")
    if shape[0] < 0:
        raise InvalidInput(f"input {name!r} has shape {shape}; a request's tensor says how many rows it has")
    if shape[0] < 1:
        raise InvalidInput(f"input {name!r} is empty; a request needs at least one row")
    if (dtype == "string") != (spec.dtype == "string"):
        raise InvalidInput(f"input {name!r} has dtype {dtype}, the model takes {spec.dtype}")
    size = math.prod(shape)
    if dtype == "string":
        texts = packed.texts(tensor.string_val, name)
        return texts if len(texts) == size else _resized(texts, "", 8, shape, name, max_filled_bytes)
    values = _values(name, tensor, dtype, size)
    if len(values) != size:
        packed.find_strays(tensor)
        values = _resized(values, values.dtype.type(), values.itemsize, shape, name, max_filled_bytes)
    return values.reshape(shape[0], *wanted)


def _values(name: str, tensor: Any, dtype: str, size: int) -> np.ndarray:
    if tensor.tensor_content:
        expected = numpy_dtype(dtype).newbyteorder("<")
        if len(tensor.tensor_content) != size * expected.itemsize:
            raise InvalidInput(
                f"input {name!r} has {len(tensor.tensor_content)} bytes of tensor_content, "
                f"its shape and dtype make {size * expected.itemsize}"
            )
        found = np.frombuffer(tensor.tensor_content, expected)
        if dtype == "bool" and found.view(np.uint8).max() > 1:
            raise InvalidInput(f"input {name!r} has a DT_BOOL that is neither 0 nor 1")
        return found
    values = packed.numbers(getattr(tensor, _FIELDS[dtype]), dtype)
    if dtype == "bool":
        values = values.astype(bool)
    elif dtype == "float16":
        values = values.astype(np.uint16).view(np.float16)
    return values


def _resized(values: Any, zero: Any, item_bytes: int, shape: list[int], name: str, max_bytes: int) -> Any:
    """Return as many values as a shape has, as TensorFlow does: the first ones, or filled up with the last.

    Args:
        zero: What fills where there is no value.
        item_bytes: Of one value, or of what points to a text.

    Raises:
        InvalidInput: filled up they would take more than `max_bytes`.
    """
    size = math.prod(shape)
    if len(values) > size:
        return values[:size]
    if size * item_bytes > max_bytes:
        raise InvalidInput(
            f"input {name!r} has {len(values)} values, and its shape {shape} would fill them up to "
            f"{size * item_bytes:,} bytes; at most {max_bytes:,} are filled up, send the values"
        )
    last = values[-1] if len(values) else zero
    if isinstance(values, np.ndarray):
        return np.concatenate([values, np.full(size - len(values), last, values.dtype)])
    return [*values, *[last] * (size - len(values))]


def fill(tensor: Any, values: np.ndarray) -> None:
    """Write an output into a message, its numbers in the list of their type, as TF Serving does."""
    dtype = str(values.dtype)
    tensor.dtype = DT[dtype]
    tensor.tensor_shape.dim.extend(pb.TensorShape.Dim(size=size) for size in values.shape)
    getattr(tensor, _FIELDS[dtype]).append(packed.pack(values))


def examples(given: Any, signature: Signature) -> dict[str, Column]:
    """Return the columns of an Input's tf.Examples; a feature of the context belongs to every example.

    A feature that may be null is so in an example without it.

    Raises:
        InvalidInput: no examples, or one that lacks a feature or gives it another size or type.
    """
    chosen = getattr(given, given.WhichOneof("kind") or "example_list")
    if not chosen.examples:
        raise InvalidInput("Input is empty; a request needs at least one example")
    context: Mapping[str, Any] = getattr(chosen, "context", pb.Example()).features.feature
    rows = [example.features.feature for example in chosen.examples]
    known = {spec.name: spec for spec in signature.inputs}
    names = dict.fromkeys(name for row in (*rows, context) for name in row)
    names |= dict.fromkeys(spec.name for spec in signature.inputs if spec.nullable)
    return {
        name: [_feature(row.get(name) or context.get(name), known.get(name), at, name)
               for at, row in enumerate(rows)]
        for name in names
    }  # fmt: skip


def _feature(feature: Any, spec: TensorSpec | None, row: int, name: str) -> Any:
    if spec is None:
        return None
    kind = feature.WhichOneof("kind") if feature is not None else None
    values = list(getattr(feature, kind).value) if kind else []
    if not values and spec.nullable:
        return None
    width = math.prod(spec.shape[1:])
    if len(values) != width:
        raise InvalidInput(f"input {name!r}, row {row}: {len(values)} values, the model takes {width}")
    if kind == "bytes_list":
        values = packed.texts(values, name)
    if kind == "float_list" and spec.nullable:  # NaN is null, as it is in a tensor
        values = [None if math.isnan(value) else value for value in values]
    if spec.dtype == "bool" and kind == "int64_list" and set(values) <= {0, 1}:
        values = list(map(bool, values))
    return values[0] if len(spec.shape) == 1 else values
