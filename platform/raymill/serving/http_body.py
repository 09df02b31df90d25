"""Bodies over HTTP: read up to a limit, unpacked and packed with gzip, their content type judged."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping, Set
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
MAX_MEMBERS = 4096
"""Of a whole gzip body. An empty one has 20 bytes and takes some 5 us, in which all other requests wait."""
_IDENTITY, _PACKED = (b"", b"identity"), (b"gzip", b"x-gzip", b"deflate")
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
        HttpError: as `checked`, as soon as it shows; 400 for a body whose end does not come.
    """
    told = headers.get(b"content-length", b"0")
    _check_kind(headers, kinds)
    if told.isdigit() and int(told) > limit:
        raise _too_large(limit)
    message = await receive()
    body = _came(message)
    if message.get("more_body"):
        parts, size = [body], len(body)
        while message.get("more_body"):
            message = await receive()
            parts.append(_came(message))
            size += len(parts[-1])
            if size > limit:
                raise _too_large(limit)
        body = b"".join(parts)
    return checked(headers, body, limit, kinds)


def _came(message: Mapping[str, Any]) -> bytes:
    """Return what a message has of the body.

    Raises:
        HttpError: the client went before the end. What is incomplete must not be acted on: RFC 9112, 8.
    """
    if message["type"] == "http.disconnect":
        raise HttpError(400, "the connection was closed before the body's end")
    return bytes(message.get("body", b""))


def checked(headers: Headers, body: bytes, limit: int, kinds: Set[bytes] = frozenset()) -> bytes:
    """Return a body that has come, unpacked.

    Raises:
        HttpError: 413 beyond `limit` bytes, sent or unpacked; 415 for a content type or encoding that
            is not read here; 400 for a body that is no gzip although its header says so.
    """
    _check_kind(headers, kinds)
    if len(body) > limit:
        raise _too_large(limit)
    encoding = headers.get(b"content-encoding")
    return body if encoding is None or not _is_packed(encoding) else _unpack(body, limit)


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
        HttpError: 415 for no form, one of several parts, or a part that is itself made of parts.
    """
    head = b"content-type: " + headers[b"content-type"] + b"\r\n\r\n"
    form = BytesParser(policy=HTTP).parsebytes(head + body)
    parts = list(form.iter_parts()) if form.is_multipart() and not form.defects else []
    if len(parts) != 1:
        raise HttpError(415, f"a form of {len(parts)} parts is not read here; send one, the JSON")
    content = parts[0].get_payload(decode=True)
    if not isinstance(content, bytes):
        kind = parts[0].get_content_type()
        raise HttpError(415, f"a part of content type {kind!r} is not read here; send application/json")
    return content


def chunks(headers: Headers, receive: Receive) -> AsyncIterator[bytes]:
    """Return a body's bytes as they come, unpacked, CHUNK_BYTES at most at a time.

    Others get their turn after each, however much one message unpacks to.

    Raises:
        HttpError: as `read`, but for the size.
    """
    encoding = headers.get(b"content-encoding")
    return _chunks(_Unpacker() if encoding is not None and _is_packed(encoding) else None, receive)


async def _chunks(unpacker: _Unpacker | None, receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        data, more = _came(message), message.get("more_body", False)
        for piece in unpacker.pieces(data) if unpacker else _slices(data):
            yield piece
            await asyncio.sleep(0)
    if unpacker:
        unpacker.end()


def _unpack(body: bytes, limit: int) -> bytes:
    unpacker, parts, size = _Unpacker(), [], 0
    for piece in unpacker.pieces(body):
        parts.append(piece)
        size += len(piece)
        if size > limit:  # so that a bomb costs no more memory than the limit
            raise _too_large(limit)
        if unpacker.members > MAX_MEMBERS:
            raise HttpError(400, f"the body has more than {MAX_MEMBERS:,} gzip members; pack it as one")
    unpacker.end()
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _is_packed(encoding: bytes) -> bool:
    """Whether a content encoding has to be undone.

    Raises:
        HttpError: 415 for one that is not read here.
    """
    codings = [coding for coding in map(bytes.strip, encoding.lower().split(b",")) if coding not in _IDENTITY]
    if not codings:
        return False
    if len(codings) > 1 or codings[0] not in _PACKED:
        name = encoding.decode("latin-1")
        raise HttpError(415, f"content encoding {name!r} is not read here; have: gzip, deflate, identity")
    return True


class _Unpacker:
    """Unpacks gzip, of one member or more (RFC 1952, 2.2), or deflate; which of the two, it sees itself."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(32 + zlib.MAX_WBITS)
        self.members = 1

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` unpacks to, CHUNK_BYTES at most at a time, and at the end of each member.

        Raises:
            HttpError: 400 for what is not packed.
        """
        for part in _slices(data):  # a member's end copies what is behind it
            while part or not self._member.eof:
                if self._member.eof:
                    self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
                    self.members += 1
                piece = self._some(part)
                yield piece
                part = self._member.unused_data or self._member.unconsumed_tail
                if not part and len(piece) < CHUNK_BYTES:  # else there may be more within
                    break

    def end(self) -> None:
        """Raise HttpError 400 if more is to come."""
        if not self._member.eof:
            raise HttpError(400, "the body's gzip ends before its end")

    def _some(self, data: bytes) -> bytes:
        try:
            return self._member.decompress(data, CHUNK_BYTES)
        except zlib.error as error:
            raise HttpError(400, f"the body is not what its content encoding says: {error}") from error


def _slices(data: bytes) -> Iterator[bytes]:
    return (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))


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
