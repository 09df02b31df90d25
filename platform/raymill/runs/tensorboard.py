"""Scalars as TensorBoard event files, in any storage.

By hand, for it is forty lines: the library for it, tensorboardX, imports torch into every process,
which costs XGBoost's jobs two seconds, and it writes to local disks and two clouds only. Format:
TFRecords (length, masked CRC-32C of it, data, masked CRC-32C of that) of `tensorflow.Event` messages.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping

from raymill.storage import Location

_POLYNOMIAL, _MASK = 0x82F63B78, 0xA282EAD8


class EventFile:
    """One event file of a folder; `flush` makes what was added visible."""

    def __init__(self, folder: Location) -> None:
        folder.make_directory()
        started = time.time()
        self.location = folder / f"events.out.tfevents.{int(started * 1e6)}.{socket.gethostname()}"
        self._written = bytearray()
        self._new = bytearray(_record(_double(1, started) + _bytes(3, b"brain.Event:2")))

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add the values of one moment, each by its tag."""
        values = b"".join(
            _bytes(1, _bytes(1, tag.encode()) + _float(2, value)) for tag, value in scalars.items()
        )
        self._new += _record(_double(1, time.time()) + _varint_field(2, step) + _bytes(5, values))

    def flush(self) -> None:
        """Append on local disks, where TensorBoard follows a file that grows; replace it elsewhere."""
        path = self.location.local_path
        if path is not None:
            with path.open("ab") as file:
                file.write(self._new)
        else:
            self._written += self._new
            self.location.replace_bytes(bytes(self._written))
        self._new.clear()


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _masked_crc(length) + data + _masked_crc(data)


def _masked_crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF)


def _table() -> list[int]:
    table = []
    for entry in range(256):
        for _ in range(8):
            entry = (entry >> 1) ^ (_POLYNOMIAL if entry & 1 else 0)
        table.append(entry)
    return table


_TABLE = _table()


# Protocol buffers: fields of wire types 0 (varint), 1 (64 bits), 2 (bytes) and 5 (32 bits)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varint_field(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value
