"""NDJSON (https://github.com/ndjson/ndjson-spec): a line asks, a line answers, in order, in bounded memory.

Lines are answered as they come: those that have arrived together, up to `BATCH_LINES`, are one batch.
Nothing more is read while answers cannot be sent, so a client reads while it writes, as curl does. Other
requests have their turn after each batch. A few bytes of gzip unpack to lines without end, so a stream of
what cannot be lines of ours ends by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import orjson

from raymill.errors import InvalidInput, RaymillError
from raymill.serving.http_body import HttpError

MEDIA_TYPES = frozenset(
    {b"application/x-ndjson", b"application/ndjson", b"application/jsonl", b"application/x-jsonlines"}
)
BATCH_LINES = 256
MAX_LINE_BYTES = 4 << 20
"""Of a line; of empty ones that follow each other, too."""
MAX_ASTRAY_LINES = 1024
"""Lines that follow each other and are no JSON, beyond which a body is no NDJSON, such as a CSV file."""
PARTS = 16
"""Into how many parts rows are split that cannot be answered together; each is tried three times at most."""

Lines = Callable[[list[bytes]], Awaitable[list[bytes]]]
"""Answers lines, each a JSON document, with as many."""
Predict = Callable[[list[Any]], Awaitable[list[Any]]]
"""Answers decoded rows with as many JSON values."""


async def answers(parts: AsyncIterator[bytes], answer: Lines, limit: int) -> AsyncGenerator[bytes, None]:
    """Yield the answers to the lines of `parts`, one line each; empty lines ask nothing.

    Raises:
        HttpError: 413 for a line that is longer than `limit` bytes, or `MAX_LINE_BYTES`; 400 for as many
            bytes of empty lines, or `MAX_ASTRAY_LINES`.
    """
    astray = 0
    async for lines in _batches(parts, min(limit, MAX_LINE_BYTES)):
        yield b"\n".join([*await answer(lines), b""])
        astray = 0 if any(map(_is_json, lines)) else astray + len(lines)
        if astray >= MAX_ASTRAY_LINES:
            raise HttpError(400, f"{astray:,} lines one after another are no JSON; send a document a line")
        await asyncio.sleep(0)  # bad lines are answered without any wait


async def _batches(parts: AsyncIterator[bytes], limit: int) -> AsyncIterator[list[bytes]]:
    empty_bytes = 0
    async for lines in _lines(parts, limit):
        asked = [line for line in lines if line.strip()]
        empty_bytes = 0 if asked else empty_bytes + sum(map(len, lines)) + len(lines)
        if empty_bytes > limit:
            raise HttpError(400, f"{empty_bytes:,} bytes one after another are empty lines")
        for start in range(0, len(asked), BATCH_LINES):
            yield asked[start : start + BATCH_LINES]


async def _lines(parts: AsyncIterator[bytes], limit: int) -> AsyncIterator[list[bytes]]:
    """Yield the lines that each part ends, and the one that nothing ends."""
    begun, size = [b""], 0
    async for part in parts:
        begun.append(part)
        size += len(part)
        if b"\n" in part:
            *lines, rest = b"".join(begun).split(b"\n")
            begun, size = [rest], len(rest)
            yield lines
        if size > limit:
            raise HttpError(413, f"a line is longer than {limit:,} bytes")
    yield [b"".join(begun)]


def by_row(predict: Predict) -> Lines:
    """Return lines answered through `predict`, a row a line; a bad one is answered by its error alone."""

    async def answer(lines: list[bytes]) -> list[bytes]:
        try:
            return await _answered(predict, list(map(orjson.loads, lines)))
        except orjson.JSONDecodeError:
            read = list(map(_row, lines))
        answered = iter(await _answered(predict, [row for row in read if not isinstance(row, InvalidInput)]))
        return [_error(row) if isinstance(row, InvalidInput) else next(answered) for row in read]

    return answer


async def _answered(predict: Predict, rows: list[Any]) -> list[bytes]:
    try:
        values = await predict(rows) if rows else []
    except InvalidInput as error:
        if len(rows) == 1:
            return [_error(error)]
        size, found = max(1, len(rows) // PARTS), []
        for start in range(0, len(rows), size):
            found += await _answered(predict, rows[start : start + size])
            await asyncio.sleep(0)
        return found
    except RaymillError as error:
        return [_error(error)] * len(rows)
    return [orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY) for value in values]


def _row(line: bytes) -> Any:
    """Return a line's document, or what is wrong with it."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return InvalidInput(f"JSON Parse error: {error}")


def _is_json(line: bytes) -> bool:
    return not isinstance(_row(line), InvalidInput)


def _error(error: RaymillError) -> bytes:
    return orjson.dumps({"error": str(error)})
