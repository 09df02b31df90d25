"""Tensors of the Open Inference Protocol over HTTP: JSON and binary ones to columns, outputs back.

The binary extension puts tensors as raw little-endian bytes behind the JSON, which read without a copy:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from raymill.errors import InvalidInput
from raymill.serving import json_columns, packed
from raymill.serving.json_columns import kind
from raymill.serving.oip_parameters import flag, parameters, refuse_extensions
from raymill.tensors import OIP_DTYPES, Signature, TensorSpec, numpy_dtype

LENGTH_HEADER = b"inference-header-content-length"
MAX_DIGITS = 18  # int() refuses numbers of some thousand


def json_size(body: bytes, header: bytes | None) -> int:
    """Return how many of a body's bytes are its JSON, which LENGTH_HEADER tells where tensors follow it.

    Raises:
        InvalidInput: a length that the body does not have.
    """
    if header is None:
        return len(body)
    if not header.isdigit() or len(header) > MAX_DIGITS or int(header) > len(body):
        raise InvalidInput(
            f"Inference-Header-Content-Length must be the JSON's length, at most the body's {len(body):,} "
            f"bytes; got {header[:60].decode('latin-1')!r}"
        )
    return int(header)


def split(body: bytes, size: int) -> tuple[dict[str, Any], memoryview]:
    """Return the JSON object in a body's first `size` bytes, and the binary tensors behind it.

    Raises:
        InvalidInput: no JSON object.
    """
    try:
        document = orjson.loads(memoryview(body)[:size])
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise InvalidInput(f"the body must be a JSON object, got {kind(document)}")
    return document, memoryview(body)[size:]


def columns(document: Mapping[str, Any], binary: memoryview, signature: Signature) -> json_columns.Columns:
    """Return the columns of a request's inputs.

    Raises:
        InvalidInput: names the input, and what its name, datatype, shape or size should be.
    """
    inputs, name = document.get("inputs"), document.get("id")
    if name is not None and not isinstance(name, str):
        raise InvalidInput(f"'id' must be a string, got {kind(name)}")
    if not isinstance(inputs, list) or not inputs:
        raise InvalidInput(f"'inputs' must be a list of at least one tensor, got {kind(inputs)}")
    specs = {spec.name: spec for spec in signature.inputs}
    found: dict[str, Sequence[Any] | np.ndarray] = {}
    for tensor in inputs:
        name = tensor.get("name") if isinstance(tensor, dict) else None
        if not isinstance(name, str):
            raise InvalidInput(f"an input must be an object with a name, got {tensor!r:.60}")
        if name in found:
            raise InvalidInput(f"input {name!r:.60} comes twice")
        size = _binary_size(tensor, len(binary))
        spec = specs.get(name)
        found[name] = () if spec is None else _column(tensor, spec, None if size is None else binary[:size])
        binary = binary[size or 0 :]
    if len(binary):
        raise InvalidInput(f"{len(binary)} bytes are left behind the last binary tensor")
    return found


def _column(
    tensor: Mapping[str, Any], spec: TensorSpec, data: memoryview | None
) -> Sequence[Any] | np.ndarray:
    rows = check(spec.name, tensor.get("datatype"), tensor.get("shape"), spec)
    return _from_json(tensor["data"], spec, rows) if data is None else from_bytes(data, spec, rows)


def check(name: str, datatype: Any, shape: Any, spec: TensorSpec) -> int:
    """Return the rows of a tensor whose datatype and shape are an input's; [rows, 1] is [rows].

    Raises:
        InvalidInput: they are not.
    """
    if datatype != OIP_DTYPES[spec.dtype]:
        expected = OIP_DTYPES[spec.dtype]
        raise InvalidInput(f"input {name!r} has datatype {datatype!r:.60}, the model takes {expected}")
    if type(shape) is list and len(shape) == len(spec.shape) == 1 and type(shape[0]) is int and shape[0] > 0:
        return shape[0]  # as almost always
    wanted = (*spec.shape[1:],) or (1,)
    if not isinstance(shape, list | tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise InvalidInput(f"input {name!r} needs a shape, a list of sizes; got {shape!r:.60}")
    if len(shape) not in (len(spec.shape), len(wanted) + 1) or tuple(shape[1:]) not in (
        spec.shape[1:],
        wanted,
    ):
        raise InvalidInput(
            f"input {name!r} has shape {list(shape)!r:.60}, the model takes {list(spec.shape)}"
        )
    if shape[0] == 0:
        raise InvalidInput(f"input {name!r} is empty; a request needs at least one row")
    return int(shape[0])


def from_bytes(data: memoryview | bytes, spec: TensorSpec, rows: int) -> np.ndarray | list[str]:
    """Return raw little-endian elements as [rows] or [rows, width], and elements of BYTES as text.

    Raises:
        InvalidInput: another number of bytes than the shape has, or BYTES that are no UTF-8.
    """
    if spec.dtype == "string":
        return _texts(data, spec.name, rows)
    dtype = numpy_dtype(spec.dtype)
    shape = (rows, *spec.shape[1:])
    size = dtype.itemsize * math.prod(shape)
    if len(data) != size:
        raise InvalidInput(f"input {spec.name!r} has {len(data)} bytes, its shape and datatype make {size}")
    found: np.ndarray = np.ndarray(shape, dtype, data)
    if spec.dtype == "bool" and found.view(np.uint8).max() > 1:
        raise InvalidInput(f"input {spec.name!r} has a BOOL that is neither 0 nor 1")
    return found


def raw(body: bytes, signature: Signature) -> json_columns.Columns:
    """Return the column of a body that has no JSON: the bytes of the only input, all of it one BYTES element.

    Raises:
        InvalidInput: the model has several inputs, or the body's size makes no number of rows.
    """
    if len(signature.inputs) != 1:
        names = ", ".join(spec.name for spec in signature.inputs)
        raise InvalidInput(
            "Inference-Header-Content-Length 0 is for models of one input, whose bytes are the whole body; "
            f"this one has {names}: describe them in JSON, and tell its length"
        )
    spec = signature.inputs[0]
    if spec.dtype == "string":
        return {spec.name: packed.texts([body], spec.name)}
    size = numpy_dtype(spec.dtype).itemsize * math.prod(spec.shape[1:])
    if not body or len(body) % size:
        raise InvalidInput(f"input {spec.name!r} has {len(body)} bytes, a row of it makes {size}")
    return {spec.name: from_bytes(body, spec, len(body) // size)}


Asked = Sequence[tuple[TensorSpec, bool]]
"""The outputs of an answer, each with whether it is to be binary."""


def asked(document: Mapping[str, Any], signature: Signature) -> Asked:
    """Return the outputs that a request asks for, all if it names none.

    Raises:
        InvalidInput: an output that the model does not have, or in a way that is not served.
    """
    by_default = flag(parameters(document), "binary_data_output", default=False)
    given = document.get("outputs")
    if given is not None and not isinstance(given, list):
        raise InvalidInput(f"'outputs' must be a list of outputs, got {kind(given)}")
    if not given:
        return [(spec, by_default) for spec in signature.outputs]
    specs = {spec.name: spec for spec in signature.outputs}
    found: dict[str, tuple[TensorSpec, bool]] = {}
    for output in given:
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str) or name not in specs:
            raise InvalidInput(f"the model has no output {name!r:.60}; have: {', '.join(specs)}")
        if name in found:  # some kilobytes of names would make a gigabyte of answer
            raise InvalidInput(f"output {name!r} is asked for more than once; ask for it once")
        settings = parameters(output)
        refuse_extensions(settings, f"output {name!r}")
        found[name] = specs[name], flag(settings, "binary_data", default=by_default)
    return list(found.values())


def outputs(asked: Asked, given: Mapping[str, np.ndarray]) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Return the outputs that a request asks for, and the bytes of binary ones."""
    described: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for spec, is_binary in asked:
        values = np.ascontiguousarray(given[spec.name])
        tensor: dict[str, Any] = {
            "name": spec.name,
            "datatype": OIP_DTYPES[spec.dtype],
            "shape": list(values.shape),
        }
        if is_binary:
            binary.append(values.tobytes())
            tensor["parameters"] = {"binary_data_size": values.nbytes}
        else:
            tensor["data"] = values.reshape(-1)
        described.append(tensor)
    return described, binary


def _from_json(data: Any, spec: TensorSpec, rows: int) -> Sequence[Any] | np.ndarray:
    flat = _flat(data, spec.name)
    width = 1 if len(spec.shape) == 1 else spec.shape[1]
    if len(flat) != rows * width:
        raise InvalidInput(
            f"input {spec.name!r} has {len(flat)} elements of data, its shape makes {rows * width}"
        )
    array = json_columns.packed(flat, spec)
    if array is not None:
        return array
    if len(spec.shape) == 1:
        return flat
    return [flat[start : start + width] for start in range(0, len(flat), width)]


def _flat(given: Any, name: str) -> list[Any]:
    if not isinstance(given, list):
        raise InvalidInput(f"input {name!r}: 'data' must be a list, got {kind(given)}")
    data: list[Any] = given
    while data and type(data[0]) is list:
        if set(map(type, data)) != {list}:
            raise InvalidInput(f"input {name!r}: 'data' mixes lists and values")
        data = [element for part in data for element in part]
    return data


def _texts(data: memoryview | bytes, name: str, rows: int) -> list[str]:
    found: list[str] = []
    place, raw = 0, bytes(data)
    while place + 4 <= len(raw) and len(found) < rows:
        (size,) = struct.unpack_from("<I", raw, place)
        place += 4 + size
        if place > len(raw):
            break
        try:
            found.append(raw[place - size : place].decode())
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"input {name!r}, row {len(found)}: BYTES that are no UTF-8: {error}"
            ) from error
    if len(found) != rows or place != len(raw):
        raise InvalidInput(f"input {name!r} has {len(raw)} bytes that do not hold its {rows} BYTES elements")
    return found


def _binary_size(tensor: Mapping[str, Any], left: int) -> int | None:
    """Return the bytes that a tensor has behind the JSON, None where its data are in it."""
    name = tensor["name"]
    settings = parameters(tensor) if "parameters" in tensor else {}
    size = settings.get("binary_data_size")
    if size is None:
        if settings:
            refuse_extensions(settings, f"input {name!r:.60}")
        if "data" not in tensor:
            raise InvalidInput(f"input {name!r:.60} has neither 'data' nor the parameter binary_data_size")
        return None
    if type(size) is not int or size < 0:
        raise InvalidInput(
            f"input {name!r:.60}: binary_data_size must be a number of bytes, got {size!r:.60}"
        )
    if size > left:
        raise InvalidInput(f"input {name!r:.60} has binary_data_size {size}, but {left} bytes are left")
    return size
