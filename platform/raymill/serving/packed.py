"""Packed lists of numbers in protocol buffers, read and written by numpy in one piece.

https://protobuf.dev/programming-guides/encoding/#packed. A .proto that declares such a list as `repeated
bytes` gets it as it lies on the wire; read number by number, 128 rows of 28 floats took 460 us. A list may
also come one by one, in part or whole: such numbers are then no part of the field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raymill.errors import InvalidInput

FIXED = ("float32", "float64")
"""Dtypes that have a fixed size on the wire; all others are varints."""


_WIDE = ("int64", "uint64", "bool")
"""Varints of which protobuf reads all 64 bits; of all others the low 32."""


class OneByOne(Exception):
    """Numbers of a message did not come packed; `public.packed` packs them."""


def find_strays(message: Any) -> None:
    """Take away what a message has beside its fields, as are unpacked numbers of a field for packed ones.

    Raises:
        OneByOne: there was something.
    """
    size = message.ByteSize()
    message.DiscardUnknownFields()
    if message.ByteSize() != size:
        raise OneByOne


def numbers(chunks: Sequence[bytes], dtype: str) -> np.ndarray:
    """Return the numbers [N] of a list that came in one or more chunks.

    Floats have their own dtype; all others are int64 (uint64 for that dtype), not yet held to a range.

    Raises:
        InvalidInput: bytes that end within a number.
    """
    data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    if dtype not in FIXED:
        values, longest = _varints(data)
        if longest > 4 and dtype not in _WIDE:
            return values.astype(np.uint32 if dtype == "uint32" else np.int32).astype(np.int64)
        return values.view(np.uint64 if dtype == "uint64" else np.int64)
    size = 4 if dtype == "float32" else 8
    if len(data) % size:
        raise InvalidInput(f"{len(data)} bytes are no packed list of {dtype}")
    return np.frombuffer(data, f"<f{size}")


def pack(values: np.ndarray) -> bytes:
    """Return `values`, flattened, as a packed list of their dtype: float32, float64 or whole numbers."""
    if values.dtype in FIXED:
        return bytes(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    left = values.reshape(-1).astype(np.int64).view(np.uint64)  # a negative number takes ten bytes
    parts_NB = (left[:, None] >> (np.arange(10, dtype=np.uint64) * np.uint64(7))) & np.uint64(127)
    length_N = np.maximum(10 - (parts_NB[:, ::-1] != 0).argmax(axis=1), 1)
    length_N[left == 0] = 1
    place_B = np.arange(10)
    bytes_NB = parts_NB.astype(np.uint8) | np.where(place_B < length_N[:, None] - 1, 128, 0).astype(np.uint8)
    return bytes(bytes_NB[place_B < length_N[:, None]].tobytes())


def _varints(data: bytes) -> tuple[np.ndarray, int]:
    """Return the numbers as uint64, and the bytes of the longest."""
    raw = np.frombuffer(data, np.uint8)
    more = raw >= 128
    if not more.any():
        return raw.astype(np.uint64), 1
    if more[-1]:
        raise InvalidInput("bytes end within a number of a packed list")
    ends = np.flatnonzero(~more)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    longest = int(lengths.max())
    if longest > 10:
        raise InvalidInput("a number of a packed list has more than ten bytes")
    place = np.arange(len(raw), dtype=np.uint64) - np.repeat(starts, lengths).astype(np.uint64)
    shifted = (raw & 127).astype(np.uint64) << (place * np.uint64(7))
    return np.asarray(np.add.reduceat(shifted, starts)), longest


def texts(values: Sequence[bytes], name: str) -> list[str]:
    """Return UTF-8 byte strings as text.

    Raises:
        InvalidInput: names the input and the row that is no UTF-8.
    """
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError:
        for row, value in enumerate(values):
            try:
                value.decode()
            except UnicodeDecodeError as error:
                raise InvalidInput(f"input {name!r}, row {row}: bytes that are no UTF-8: {error}") from error
        raise
