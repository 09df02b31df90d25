"""A minimal ASGI application over the plane: reads bodies, finds the protocol, writes JSON.

By hand because routing is the whole of what a framework would do here, and costs: Starlette's
request alone took a fifth of the requests a second that the bare callable did.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import orjson

from raymill.errors import RaymillError
from raymill.serving.plane import Plane

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

HTTP_STATUS = {
    "invalid": 400, "not_found": 404, "conflict": 409, "exhausted": 429, "unsupported": 501,
    "unavailable": 503, "deadline": 504, "internal": 500,
}  # fmt: skip
_JSON = [(b"content-type", b"application/json")]


@dataclass(frozen=True)
class Request:
    """A whole request; `path` is percent-decoded, without the application's prefix."""

    method: str
    path: str
    body: bytes


@dataclass(frozen=True)
class Response:
    """A status and a JSON document, already encoded."""

    status: int
    body: bytes


class HttpProtocol(Protocol):
    """One wire protocol over HTTP: translates requests to the plane and answers back, nothing else."""

    prefix: ClassVar[str]
    """Paths below it belong to this protocol."""

    def __init__(self, plane: Plane) -> None: ...

    def handle(self, request: Request) -> Response: ...

    def error(self, status: int, message: str) -> Response:
        """Return the protocol's own error body."""
        ...


class BodyTooLarge(Exception):
    """A request body beyond the limit."""


def json_response(document: Any, status: int = 200) -> Response:
    """Return `document` as JSON; numpy arrays become lists, NaN becomes null."""
    return Response(status, orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY))


class HttpApp:
    """The ASGI callable: `/healthz` and the protocols' paths."""

    def __init__(self, plane: Plane, protocols: list[HttpProtocol], max_body_bytes: int) -> None:
        self._plane, self._protocols, self._limit = plane, protocols, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        protocol = next((p for p in self._protocols if path.startswith(p.prefix)), None)
        if protocol is None:
            response = self._own(scope["method"], path)
        else:
            response = await self._answer(protocol, scope["method"], path, receive)
        headers = [*_JSON, (b"content-length", str(len(response.body)).encode())]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else response.body
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, protocol: HttpProtocol, method: str, path: str, receive: Receive) -> Response:
        try:
            return protocol.handle(Request(method, path, await self._read(receive)))
        except BodyTooLarge:
            return protocol.error(413, f"request body is larger than {self._limit:,} bytes; send fewer rows")
        except RaymillError as error:
            return protocol.error(HTTP_STATUS[error.kind], str(error))
        except Exception:
            log.exception("request %s %s failed", method, path)
            return protocol.error(500, "internal error; the server's log has it")

    async def _read(self, receive: Receive) -> bytes:
        message = await receive()
        body: bytes = message.get("body", b"")
        if not message.get("more_body"):
            if len(body) > self._limit:
                raise BodyTooLarge
            return body
        parts, size = [body], len(body)
        while message.get("more_body"):
            message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._limit:
                raise BodyTooLarge
        return b"".join(parts)

    def _own(self, method: str, path: str) -> Response:
        if path == "/healthz":
            ready = self._plane.ready()
            document = {"status": "ok" if ready else "loading", "models": self._plane.models()}
            return json_response(document, 200 if ready else 503)
        have = ", ".join(["/healthz", *(f"{p.prefix}..." for p in self._protocols)])
        return json_response({"error": f"nothing at {method} {path}; have: {have}"}, 404)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
