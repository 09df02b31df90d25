"""HTTP connections that answer whole requests at once, on uvicorn's server; everything else is uvicorn's.

Ray Serve's replica spends 90 us on a request around the application: middlewares, two tasks, contexts, a log
record that nobody asked for; and uvicorn writes head and body apart. A request whose body has come, of a
known size, needs none of it: it becomes one call and one write. Streams, large or chunked bodies, Serve's own
paths and a replica with as many requests as it may have take the way through Serve, which is unchanged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from raymill.serving import ndjson
from raymill.serving.http import PATHS, Header, Request
from raymill.serving.http_body import media_type

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 4 << 20  # beyond it uvicorn's flow control is worth its price

Respond = Callable[[Request], Awaitable[tuple[int, list[Header], bytes]]]
"""Returns status, headers and body."""
_FAILED: list[Header] = [(b"content-type", b"text/plain"), (b"content-length", b"22")]
Admit = Callable[[], bool]
"""Returns whether one more request may be answered at once."""


class _Exchange:
    """A request being answered; stands where uvicorn has its own, so that it queues what is pipelined."""

    __slots__ = ("body", "disconnected", "keep_alive", "request", "response_complete")
    message_event = asyncio.Event()  # uvicorn wakes by it who waits for the body; nobody does

    def __init__(self, request: Request, keep_alive: bool) -> None:
        self.request, self.keep_alive = request, keep_alive
        self.body: list[bytes] = []
        self.response_complete = self.disconnected = False


class _UntilClosed(RequestResponseCycle):
    """Ends an answer of no known length by closing; uvicorn sends chunks, which HTTP/1.0 does not know."""

    _sized = True

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._sized = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
            if not self._sized:
                self.chunked_encoding = False
        elif not self._sized:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


@lru_cache(PATHS)
def _target(url: bytes) -> tuple[str, bytes]:
    """Return the decoded path and the query of a request's target."""
    found = httptools.parse_url(url)
    path = found.path.decode("ascii")
    return unquote(path) if "%" in path else path, found.query or b""


class _KeptAlive(HttpToolsProtocol):
    """Has one timer a connection. Uvicorn makes and ends one for each request, which costs it 3 us."""

    _idle_since: float | None = None
    """When the last answer went; None once the client has been heard again."""

    def on_response_complete(self) -> None:
        if self.pipeline:
            super().on_response_complete()
            return
        if self.timeout_keep_alive_task is None:
            super().on_response_complete()
        else:  # the same, but for the timer, which goes on
            self.server_state.total_requests += 1
            self.flow.resume_reading()
        self._idle_since = self.loop.time()

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None

    def timeout_keep_alive_handler(self) -> None:
        since, self.timeout_keep_alive_task = self._idle_since, None
        if since is None:
            return  # the next answer begins it anew
        left_s = since + self.timeout_keep_alive - self.loop.time()
        if left_s <= 0:
            super().timeout_keep_alive_handler()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(left_s, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        super()._unset_keepalive_if_required()


class Connection(_KeptAlive):
    """Answers whole requests by `respond`, where `admit` lets it, and leaves the rest to uvicorn."""

    respond: Respond
    admit: Admit
    cycle: Any
    _exchange: _Exchange | None = None

    def on_message_begin(self) -> None:
        self.url, self.headers = b"", []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        request = self._whole()
        if request is None or not self.admit():
            url, headers = self.url, self.headers
            super().on_message_begin()  # from here on, uvicorn's
            super().on_url(url)
            for name, value in headers:
                super().on_header(name, value)
            super().on_headers_complete()
            if self.parser.get_http_version() == "1.0" and isinstance(self.cycle, RequestResponseCycle):
                self.cycle.__class__ = _UntilClosed
            return
        self._exchange = self.cycle = _Exchange(request, self.parser.should_keep_alive())

    def on_body(self, body: bytes) -> None:
        exchange = self._exchange
        if exchange is not None and exchange is self.cycle:
            exchange.body.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        exchange = self._exchange
        if exchange is None or exchange is not self.cycle:
            super().on_message_complete()
            return
        exchange.request.body = exchange.body[0] if len(exchange.body) == 1 else b"".join(exchange.body)
        self.tasks.add(self.loop.create_task(self._answer(exchange)))

    def _whole(self) -> Request | None:
        """Return the request if it is one to answer at once, without its body."""
        if self.cycle is not None and not self.cycle.response_complete:
            return None  # pipelined behind another
        parser, headers = self.parser, dict(self.headers)
        size = headers.get(b"content-length", b"0")
        if (
            b"expect" in headers
            or parser.should_upgrade()
            or parser.get_http_version() != "1.1"
            or b"transfer-encoding" in headers
            or not size.isdigit()
            or int(size) > MAX_BODY_BYTES
            or media_type(headers) in ndjson.MEDIA_TYPES
        ):
            return None
        path, query = _target(self.url)
        if path.startswith("/-/"):
            return None
        return Request(parser.get_method().decode("ascii"), path, b"", headers, query)

    async def _answer(self, exchange: _Exchange) -> None:
        try:
            try:
                status, headers, body = await self.respond(exchange.request)
            except Exception:  # the application turns what it foresees into answers
                log.exception("%s %s failed", exchange.request.method, exchange.request.path)
                status, headers, body = 500, _FAILED, b"internal server error\n"
            if self.flow.write_paused:
                await self.flow.drain()
            if not exchange.disconnected:
                self._send(exchange, status, headers, body)
        finally:  # not by a callback of the task, which is a turn of the loop of its own
            self.tasks.discard(asyncio.current_task())

    def _send(self, exchange: _Exchange, status: int, headers: list[Header], body: bytes) -> None:
        lines = [STATUS_LINE[status]]
        for name, value in self.server_state.default_headers:
            lines += (name, b": ", value, b"\r\n")
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        lines.append(b"\r\n" if exchange.keep_alive else b"connection: close\r\n\r\n")
        if exchange.request.method != "HEAD":
            lines.append(body)
        self.transport.write(b"".join(lines))
        exchange.response_complete = True
        self._exchange = None
        if not exchange.keep_alive:
            self.transport.close()
        self.on_response_complete()


def connection_class(respond: Respond, admit: Admit) -> type[Connection]:
    """Return the protocol class of connections that `respond` answers where `admit` lets it."""
    return type("Connection", (Connection,), {"respond": staticmethod(respond), "admit": staticmethod(admit)})
