"""Bodies over HTTP: read up to a limit, unpacked and packed with gzip, their content type judged."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Set
from email.parser import BytesParser
from email.policy import HTTP
from functools import lru_cache
from typing import Any

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Headers = Mapping[bytes, bytes]

READABLE = frozenset(
    {
        b"",
        b"application/json",
        b"text/plain",
        b"application/octet-stream",
        b"application/x-www-form-urlencoded",
    }
)
"""Content types of bodies that may hold what we read; the last is what curl says of any `--data`."""
FORM = b"multipart/form-data"
CHUNK_BYTES = 1 << 16
GZIP_LEVEL = 1  # level 6 took four times as long for a tenth fewer bytes of JSON numbers


class HttpError(Exception):
    """A refusal that only HTTP knows: a status, what to say, and headers that go with it."""

    def __init__(self, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(status, message, headers)
        self.status, self.message, self.headers = status, message, headers

    def __str__(self) -> str:
        return self.message


def media_type(headers: Headers) -> bytes:
    """Return the content type without its parameters, in lower case; empty when there is none."""
    return _media_type(headers.get(b"content-type", b""))


@lru_cache(256)
def _media_type(content_type: bytes) -> bytes:
    return content_type.split(b";", 1)[0].strip().lower()


def wants_gzip(headers: Headers) -> bool:
    """Whether the client takes gzip: `accept-encoding` names it, not with weight 0."""
    accepted = headers.get(b"accept-encoding")
    return accepted is not None and _takes_gzip(accepted)


@lru_cache(256)
def _takes_gzip(accepted: bytes) -> bool:
    for offer in accepted.lower().split(b","):
        name, _, weight = offer.partition(b";")
        if name.strip() == b"gzip":
            return weight.translate(None, b" \t").rstrip(b".0") != b"q="
    return False


def gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


async def read(headers: Headers, receive: Receive, limit: int, kinds: Set[bytes] = frozenset()) -> bytes:
    """Return the whole body, unpacked.

    Args:
        kinds: Content types that are read beside READABLE.

    Raises:
        HttpError: as `checked`, as soon as it shows.
    """
    told = headers.get(b"content-length", b"0")
    _check_kind(headers, kinds)
    if told.isdigit() and int(told) > limit:
        raise _too_large(limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        parts, size = [body], len(body)
        while message.get("more_body"):
            message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise _too_large(limit)
        body = b"".join(parts)
    return checked(headers, body, limit, kinds)


def checked(headers: Headers, body: bytes, limit: int, kinds: Set[bytes] = frozenset()) -> bytes:
    """Return a body that has come, unpacked.

    Raises:
        HttpError: 413 beyond `limit` bytes, sent or unpacked; 415 for a content type or encoding that
            is not read here; 400 for a body that is no gzip although its header says so.
    """
    _check_kind(headers, kinds)
    if len(body) > limit:
        raise _too_large(limit)
    encoding = headers.get(b"content-encoding", b"identity")
    return body if encoding == b"identity" else _unpack(body, encoding, limit)


def _check_kind(headers: Headers, kinds: Set[bytes]) -> None:
    if headers.get(b"content-type", b"") in READABLE:  # as almost always
        return
    kind = media_type(headers)
    if kind not in READABLE and kind not in kinds and not kind.endswith(b"+json"):
        raise HttpError(
            415, f"content type {kind.decode('latin-1')!r} is not read here; send application/json"
        )


def file_of_form(headers: Headers, body: bytes) -> bytes:
    """Return the one part of a body of FORM, as `curl -F data=@FILE` sends it.

    Raises:
        HttpError: 415 for no form, or one of several parts.
    """
    head = b"content-type: " + headers[b"content-type"] + b"\r\n\r\n"
    form = BytesParser(policy=HTTP).parsebytes(head + body)
    parts = list(form.iter_parts()) if form.is_multipart() and not form.defects else []
    if len(parts) != 1:
        raise HttpError(415, f"a form of {len(parts)} parts is not read here; send one, the JSON")
    return bytes(parts[0].get_payload(decode=True))


def chunks(headers: Headers, receive: Receive) -> AsyncIterator[bytes]:
    """Return a body's bytes as they come, unpacked.

    Raises:
        HttpError: as `read`, but for the size.
    """
    return _chunks(_unpacker(headers.get(b"content-encoding", b"identity")), receive)


async def _chunks(unpacker: Any, receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more, data = message.get("more_body", False), message.get("body", b"")
        while data and unpacker:
            yield _some(unpacker, data, CHUNK_BYTES)
            data = unpacker.unconsumed_tail
        if data:
            yield data


def _unpack(body: bytes, encoding: bytes, limit: int) -> bytes:
    unpacker = _unpacker(encoding)
    assert unpacker is not None
    unpacked = _some(unpacker, body, limit + 1)  # so that a bomb costs no more memory than the limit
    if len(unpacked) > limit:
        raise _too_large(limit)
    if not unpacker.eof:
        raise HttpError(400, "the body's gzip ends before its end")
    return unpacked


def _unpacker(encoding: bytes) -> Any:
    """Return a decompressor, None for identity."""
    if encoding == b"identity":
        return None
    if encoding.strip().lower() not in (b"gzip", b"x-gzip", b"deflate"):
        name = encoding.decode("latin-1")
        raise HttpError(415, f"content encoding {name!r} is not read here; have: gzip, deflate, identity")
    return zlib.decompressobj(32 + zlib.MAX_WBITS)  # which of the two, it sees by itself


def _some(unpacker: Any, data: bytes, size: int) -> bytes:
    try:
        return bytes(unpacker.decompress(data, size))
    except zlib.error as error:
        raise HttpError(400, f"the body is not what its content encoding says: {error}") from error


def _too_large(limit: int) -> HttpError:
    return HttpError(413, f"request body is larger than {limit:,} bytes; send fewer rows")


def seconds(header: bytes) -> float:
    """Return the seconds that x-request-timeout-seconds gives a request.

    Raises:
        HttpError: no positive number.
    """
    try:
        given = float(header)
    except ValueError:
        given = 0.0
    if not 0 < given < float("inf"):
        raise HttpError(400, f"x-request-timeout-seconds must be a positive number, got {header!r:.40}")
    return given
