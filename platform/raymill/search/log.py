"""An append-only log of JSON events on any file system.

A log is a folder of segments, `00000001.jsonl`, one event a line. Each writer starts a segment of its
own, so a writer that died mid-line leaves a torn line at the end of its segment and nowhere else. Where
the file system can append, a segment grows; on object stores every event is a segment. A writer that
finds a segment after its own has been superseded and stops.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pyarrow import fs as pafs

from raymill.errors import Conflict, Corrupt
from raymill.storage import Location

Event = dict[str, Any]
_DIGITS = 8
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class EventLog:
    """Reads and appends the events below one folder. One writer at a time."""

    def __init__(self, folder: Location) -> None:
        self.folder = folder
        self.torn: list[str] = []
        """What was left out when reading: one sentence a torn line."""
        self._segment = 0
        self._stream: Any = None

    def read(self) -> list[Event]:
        """Return all events, oldest first; a torn last line of a segment is left out and noted in `torn`.

        Raises:
            Corrupt: a line that is not the last of its segment is no event.
        """
        self.torn = []
        events: list[Event] = []
        for segment in self._segments():
            lines = segment.read_bytes().split(b"\n")
            for number, line in enumerate(lines, 1):
                if not line:
                    continue
                try:
                    events.append(_decoded(json.loads(line)))
                except ValueError as error:
                    if number < len(lines):
                        raise Corrupt(
                            f"line {number} of {segment.uri!r} is no event: {error}; restore the file, or "
                            "move the study away"
                        ) from error
                    self.torn.append(
                        f"{segment.uri!r} ends in a torn line of {len(line)} bytes, left by a writer that "
                        "died; its event never happened"
                    )
        return events

    def append(self, event: Event) -> None:
        """Write an event; it is on the file system when this returns.

        Raises:
            Conflict: another writer has opened this log since.
        """
        line = json.dumps(_encoded(event), allow_nan=False).encode() + b"\n"
        if self._stream is None:
            self._open(line)
            return
        if self._named(self._segment + 1).exists():
            raise self._superseded()
        self._stream.write(line)
        self._stream.flush()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _open(self, line: bytes) -> None:
        """Write the first line of a new segment, and keep it open where the file system can append."""
        self.folder.make_directory()
        if not self._segment:
            self._segment = max((int(segment.name[:_DIGITS]) for segment in self._segments()), default=0)
        self._segment += 1
        location = self._named(self._segment)
        if not location.create_bytes(line):
            raise self._superseded()
        if isinstance(location.filesystem, pafs.LocalFileSystem | pafs.HadoopFileSystem):
            self._stream = location.filesystem.open_append_stream(location.path)

    def _superseded(self) -> Conflict:
        return Conflict(
            f"another process has opened {self.folder.uri!r} for writing since this one did; end one of them"
        )

    def _segments(self) -> list[Location]:
        return [child for child in self.folder.children() if child.name.endswith(".jsonl")]

    def _named(self, number: int) -> Location:
        return self.folder / f"{number:0{_DIGITS}d}.jsonl"


def _encoded(value: Any) -> Any:
    """Return `value` with floats that JSON lacks as {"float": "NaN"}."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, Mapping):
        return {key: _encoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(item) for item in value]
    return value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"float"} and value["float"] in _NOT_FINITE:
            return _NOT_FINITE[value["float"]]
        return {key: _decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return value
