"""HTTP connections that answer whole requests at once, on uvicorn's server; everything else is uvicorn's.

Ray Serve's replica spends 90 us on a request around the application: middlewares, two tasks, contexts, a log
record that nobody asked for; and uvicorn writes head and body apart. A request whose body has come, of a
known size, needs none of it: it becomes one call and one write. Streams, large or chunked bodies, Serve's own
paths and a replica with as many requests as it may have take the way through Serve, which is unchanged.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from raymill.serving import ndjson
from raymill.serving.http import Header, Request
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

    __slots__ = ("body", "disconnected", "keep_alive", "message_event", "request", "response_complete")

    def __init__(self, request: Request, keep_alive: bool) -> None:
        self.request, self.keep_alive = request, keep_alive
        self.body: list[bytes] = []
        self.response_complete = self.disconnected = False
        self.message_event = self  # uvicorn wakes who waits for the body; nobody does

    def set(self) -> None:
        pass


def connection_class(respond: Respond, admit: Admit) -> type[HttpToolsProtocol]:
    """Return the protocol class of connections that `respond` answers where `admit` lets it."""

    class Connection(HttpToolsProtocol):
        cycle: Any
        _exchange: _Exchange | None = None

        def on_headers_complete(self) -> None:
            request = self._whole()
            if request is None or not admit():
                super().on_headers_complete()
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
            task = self.loop.create_task(self._answer(exchange))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

        def _whole(self) -> Request | None:
            """Return the request if it is one to answer at once, without its body."""
            if self.cycle is not None and not self.cycle.response_complete:
                return None  # pipelined behind another
            parser, headers = self.parser, dict(self.headers)
            size = headers.get(b"content-length", b"0")
            if (
                self.expect_100_continue
                or parser.should_upgrade()
                or parser.get_http_version() != "1.1"
                or b"transfer-encoding" in headers
                or not size.isdigit()
                or int(size) > MAX_BODY_BYTES
                or media_type(headers) in ndjson.MEDIA_TYPES
            ):
                return None
            url = httptools.parse_url(self.url)
            path = url.path.decode("ascii")
            if path.startswith("/-/"):
                return None
            if "%" in path:
                path = unquote(path)
            return Request(parser.get_method().decode("ascii"), path, b"", headers, url.query or b"")

        async def _answer(self, exchange: _Exchange) -> None:
            try:
                status, headers, body = await respond(exchange.request)
            except Exception:  # the application turns what it foresees into answers
                log.exception("%s %s failed", exchange.request.method, exchange.request.path)
                status, headers, body = 500, _FAILED, b"internal server error\n"
            if exchange.disconnected:
                return
            lines = [STATUS_LINE[status]]
            for name, value in self.server_state.default_headers:
                lines += (name, b": ", value, b"\r\n")
            for name, value in headers:
                lines += (name, b": ", value, b"\r\n")
            lines.append(b"\r\n" if exchange.keep_alive else b"connection: close\r\n\r\n")
            if exchange.request.method != "HEAD":
                lines.append(body)
            if self.flow.write_paused:
                await self.flow.drain()
            self.transport.write(b"".join(lines))
            exchange.response_complete = True
            self._exchange = None
            if not exchange.keep_alive:
                self.transport.close()
            self.on_response_complete()

    return Connection
