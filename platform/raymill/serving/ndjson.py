"""NDJSON (https://github.com/ndjson/ndjson-spec): a line asks, a line answers, in order, in bounded memory.

Lines are answered as they come: those that have arrived together, up to `BATCH_LINES`, are one batch.
Nothing more is read while answers cannot be sent, so a client reads while it writes, as curl does.
"""

from __future__ import annotations

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

Lines = Callable[[list[bytes]], Awaitable[list[bytes]]]
"""Answers lines, each a JSON document, with as many."""
Predict = Callable[[list[Any]], Awaitable[list[Any]]]
"""Answers decoded rows with as many JSON values."""


async def answers(parts: AsyncIterator[bytes], answer: Lines, limit: int) -> AsyncGenerator[bytes, None]:
    """Yield the answers to the lines of `parts`, one line each; empty lines ask nothing.

    Raises:
        HttpError: 413 for a line that is longer than `limit` bytes, or `MAX_LINE_BYTES`.
    """
    limit, rest = min(limit, MAX_LINE_BYTES), b""
    async for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        if len(rest) > limit:
            raise HttpError(413, f"a line is longer than {limit:,} bytes")
        async for done in _batches(lines, answer):
            yield done
    async for done in _batches([rest], answer):
        yield done


async def _batches(lines: list[bytes], answer: Lines) -> AsyncIterator[bytes]:
    asked = [line for line in lines if line.strip()]
    for start in range(0, len(asked), BATCH_LINES):
        yield b"\n".join([*await answer(asked[start : start + BATCH_LINES]), b""])


def by_row(predict: Predict) -> Lines:
    """Return lines answered through `predict`, a row a line; a bad one is answered by its error alone."""

    async def answer(lines: list[bytes]) -> list[bytes]:
        try:
            values = await predict([_row(line) for line in lines])
        except InvalidInput as error:
            if len(lines) == 1:
                return [orjson.dumps({"error": str(error)})]
            middle = len(lines) // 2
            return await answer(lines[:middle]) + await answer(lines[middle:])
        except RaymillError as error:
            return [orjson.dumps({"error": str(error)})] * len(lines)
        return [orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY) for value in values]

    return answer


def _row(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"JSON Parse error: {error}") from error
