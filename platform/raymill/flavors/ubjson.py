"""Whether bytes are one whole document of Universal Binary JSON (specification draft 12, ubjson.org).

XGBoost reads past the end of a model that was cut short, which ends the process as often as not. So its
files are walked through first. By hand: the readers on PyPI build the document, and this only skips.
"""

from __future__ import annotations

import struct

from raymill.errors import Corrupt

_SIZES = {
    b"Z": 0,
    b"N": 0,
    b"T": 0,
    b"F": 0,
    b"i": 1,
    b"U": 1,
    b"C": 1,
    b"I": 2,
    b"l": 4,
    b"d": 4,
    b"L": 8,
    b"D": 8,
}
_INTEGERS = {b"i": ">b", b"U": ">B", b"I": ">h", b"l": ">i", b"L": ">q"}
_DEEPEST = 64


def check_whole(data: bytes) -> None:
    """Return where `data` is one document and nothing else.

    Raises:
        Corrupt: it ends early or late, or holds what is no UBJSON; the message says at which byte.
    """
    reader = _Reader(data)
    if data[:1] != b"{":
        raise Corrupt("it does not begin as UBJSON's objects do")
    reader.value(reader.take(1), 0)
    if reader.at != len(data):
        raise Corrupt(f"{len(data) - reader.at} bytes follow its end at byte {reader.at}")


class _Reader:
    """A position in the bytes, which never leaves them."""

    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self._data) - self.at:
            raise Corrupt(f"it ends at byte {len(self._data)}, {count} more are announced at {self.at}")
        self.at += count
        return self._data[self.at - count : self.at]

    def value(self, kind: bytes, depth: int) -> None:
        """Skip a value whose type mark has been read."""
        if depth > _DEEPEST:
            raise Corrupt(f"it is nested deeper than {_DEEPEST} at byte {self.at}")
        if kind in _SIZES:
            self.take(_SIZES[kind])
        elif kind in (b"S", b"H"):
            self.take(self._length())
        elif kind in (b"[", b"{"):
            self._container(kind, depth + 1)
        else:
            raise Corrupt(f"{kind!r} at byte {self.at - 1} is no type of UBJSON")

    def _length(self) -> int:
        kind = self.take(1)
        if kind not in _INTEGERS:
            raise Corrupt(f"{kind!r} at byte {self.at - 1} is no type of a length")
        return int(struct.unpack(_INTEGERS[kind], self.take(_SIZES[kind]))[0])

    def _container(self, kind: bytes, depth: int) -> None:
        end = b"]" if kind == b"[" else b"}"
        of = self._optional(b"$")
        count = self._length() if self._optional(b"#", peek=True) is not None else None
        if of is not None and count is None:
            raise Corrupt(f"a typed container at byte {self.at} does not say how long it is")
        if kind == b"[" and of in _SIZES and count is not None:
            self.take(count * _SIZES[of] if count >= 0 else -1)
            return
        done = 0
        while count is None or done < count:
            mark = self.take(1)
            if count is None and mark == end:
                return
            if kind == b"{":  # a key is a string without its mark
                self.at -= 1
                self.take(self._length())
                mark = self.take(1) if of is None else of
            elif of is not None:
                self.at -= 1
                mark = of
            self.value(mark, depth)
            done += 1

    def _optional(self, mark: bytes, *, peek: bool = False) -> bytes | None:
        """Read `mark` if it is next, and return the byte after it, or the mark alone with `peek`."""
        if self._data[self.at : self.at + 1] != mark:
            return None
        self.take(1)
        return mark if peek else self.take(1)
