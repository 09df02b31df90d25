"""A minimal ASGI application over the plane: finds the protocol, reads bodies, sends what it answers.

By hand because routing is the whole of what a framework would do here, and costs: Starlette's
request alone took a fifth of the requests a second that the bare callable did.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Set
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import orjson

from raymill.errors import DeadlineExceeded, RaymillError
from raymill.serving import http_body, ndjson, openapi
from raymill.serving.cors import Cors, is_preflight
from raymill.serving.http_body import HttpError
from raymill.serving.plane import Plane
from raymill.serving.spec import HttpSpec

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]

HTTP_STATUS = {
    "invalid": 400, "not_found": 404, "conflict": 409, "exhausted": 429, "unsupported": 501,
    "unavailable": 503, "deadline": 504, "internal": 500,
}  # fmt: skip
_JSON: Header = (b"content-type", b"application/json")
_NDJSON: Header = (b"content-type", b"application/x-ndjson")
TIMEOUT_HEADER = b"x-request-timeout-seconds"
_VISIBLE = bytes(range(0x21, 0x7F))
PATHS = 256
"""How many parsed paths are remembered: clients ask the same ones."""


@dataclass(slots=True)
class Request:
    """A whole request; `path` is percent-decoded, without the application's prefix."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    """By lower-case name."""
    query: bytes = b""
    """As sent, behind the question mark."""
    model: str = ""
    """For the metrics: the model that was asked, once it is known to be served."""
    version: str = ""
    """For the metrics: the version that answered."""


@dataclass(slots=True)
class Response:
    """A status and a body already encoded; JSON unless `headers` carry another content type."""

    status: int
    body: bytes
    headers: tuple[Header, ...] = (_JSON,)
    may_be_packed: bool = True
    """Whether a client that accepts gzip gets it."""


Observe = Callable[[str, str, str, str, float], None]
"""Counts one request: protocol, model, version, status, seconds."""


class HttpProtocol(Protocol):
    """One wire protocol over HTTP: translates requests to the plane and answers back, nothing else."""

    name: ClassVar[str]
    """As in PROTOCOLS; the metrics carry it."""
    roots: ClassVar[tuple[str, ...]]
    """First segments of the paths that belong to this protocol; "" is the path `/` itself."""
    kinds: ClassVar[Set[bytes]]
    """Content types that it reads beside `http_body.READABLE`."""

    def __init__(self, plane: Plane) -> None: ...

    async def handle(self, request: Request) -> Response: ...

    def lines(self, request: Request) -> ndjson.Lines:
        """Return what answers the lines of an NDJSON body; raises as `handle` for a wrong path or model."""
        ...

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI path items of the models served now."""
        ...

    def error(self, status: int, message: str) -> Response:
        """Return the protocol's own error body."""
        ...


def json_bytes(document: Any) -> bytes:
    """Return `document` as JSON; numpy arrays become lists, NaN becomes null."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def json_response(document: Any, status: int = 200) -> Response:
    """Return an answer of `json_bytes`."""
    return Response(status, json_bytes(document))


class HttpApp:
    """The ASGI callable: the protocols' paths, and `/healthz`, `/openapi.json`, `/docs`.

    Args:
        max_body_bytes: Larger request bodies, as sent or unpacked, get 413.
        observe: Told of every request to a protocol.
        names_requests: Whether answers carry `x-request-id`; False where the server in front adds it.
    """

    def __init__(
        self,
        plane: Plane,
        protocols: list[HttpProtocol],
        max_body_bytes: int,
        spec: HttpSpec | None = None,
        *,
        observe: Observe | None = None,
        names_requests: bool = True,
    ) -> None:
        self._plane, self._protocols, self._limit = plane, protocols, max_body_bytes
        self._spec = spec or HttpSpec()
        self._by_root = {root: protocol for protocol in protocols for root in protocol.roots}
        self._cors = Cors(self._spec.cors_origins) if self._spec.cors_origins else None
        by_origin = self._cors is not None and self._cors.varies
        self._vary: tuple[Header, ...] = ((b"vary", b"origin"),) if by_origin else ()
        self._vary_of_packed = (b"vary", b"origin, accept-encoding" if by_origin else b"accept-encoding")
        self._observe, self._names_requests = observe, names_requests
        self._process, self._number = secrets.token_hex(8), itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        request = Request(scope["method"], path, b"", dict(scope["headers"]), scope.get("query_string", b""))
        if request.method == "POST" and http_body.media_type(request.headers) in ndjson.MEDIA_TYPES:
            protocol = self._protocol(request)
            if protocol is not None:
                await self._stream(protocol, request, receive, send)
                return
        status, headers, body = await self.respond(request, receive)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def respond(self, request: Request, receive: Receive | None) -> tuple[int, list[Header], bytes]:
        """Return status, headers and body for a request that is no stream of lines.

        Args:
            receive: Where the body is to come from; None where the request has it.
        """
        if self._cors and is_preflight(request.method, request.headers):
            headers = [*self._cors.preflight(request.headers), *self._common(request), *self._vary]
            return 204, headers, b""  # which has no length either: RFC 9110, 8.6
        protocol = self._protocol(request)
        if protocol is None:
            return self._packed(request, self._own(request.method, request.path))
        started = time.perf_counter()
        response = await self._answer(protocol, request, receive)
        self._count(protocol, request, response.status, started)
        return self._packed(request, response)

    def refuse(self, request: Request, error: Exception) -> tuple[int, list[Header], bytes]:
        """Return a protocol's answer for `error`; what asks no model is answered all the same."""
        protocol = self._protocol(request)
        if protocol is None:
            return self._packed(request, self._own(request.method, request.path))
        response = self._error(protocol, request, error)
        self._count(protocol, request, response.status, time.perf_counter())
        return self._packed(request, response)

    def _protocol(self, request: Request) -> HttpProtocol | None:
        if request.path == "/" and request.method in ("GET", "HEAD"):
            return None
        return self._by_root.get(request.path.split("/", 2)[1] if "/" in request.path else "")

    def _count(self, protocol: HttpProtocol, request: Request, status: int, started: float) -> None:
        if self._observe:
            seconds = time.perf_counter() - started
            self._observe(protocol.name, request.model, request.version, str(status), seconds)

    async def _answer(self, protocol: HttpProtocol, request: Request, receive: Receive | None) -> Response:
        try:
            if request.method not in ("GET", "HEAD", "OPTIONS"):
                if receive is not None:
                    request.body = await http_body.read(request.headers, receive, self._limit, protocol.kinds)
                else:
                    request.body = http_body.checked(
                        request.headers, request.body, self._limit, protocol.kinds
                    )
            timeout = request.headers.get(TIMEOUT_HEADER)
            if timeout is None:
                return await protocol.handle(request)
            async with _deadline(http_body.seconds(timeout)):
                return await protocol.handle(request)
        except Exception as error:
            return self._error(protocol, request, error)

    async def _stream(self, protocol: HttpProtocol, request: Request, receive: Receive, send: Send) -> None:
        started, status = time.perf_counter(), 200
        timeout = request.headers.get(TIMEOUT_HEADER)
        try:
            timeout_s = None if timeout is None else http_body.seconds(timeout)
            answer = protocol.lines(request)
            parts = http_body.chunks(request.headers, receive)
        except Exception as error:
            response = self._error(protocol, request, error)
            status, headers, last = self._packed(request, response)
            await send({"type": "http.response.start", "status": status, "headers": headers})
        else:
            headers = [_NDJSON, *self._common(request), *self._vary]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            status, last = await self._lines(request, parts, answer, timeout_s, send)
        await send({"type": "http.response.body", "body": last})
        self._count(protocol, request, status, started)

    async def _lines(
        self, request: Request, parts: AsyncIterator[bytes], answer: ndjson.Lines,
        timeout_s: float | None, send: Send,
    ) -> tuple[int, bytes]:  # fmt: skip
        """Send the answers; return the status of how it ended, and the line that says so if not well."""
        try:
            async with (
                _deadline(timeout_s),
                aclosing(ndjson.answers(parts, answer, self._limit)) as answers,
            ):
                async for part in answers:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
        except Exception as error:
            status, message = self._told(request, error)
            return status, json_bytes({"error": message}) + b"\n"
        return 200, b""

    def _told(self, request: Request, error: Exception) -> tuple[int, str]:
        """Return the status and the message of an error."""
        if isinstance(error, HttpError):
            return error.status, str(error)
        if isinstance(error, RaymillError):
            return HTTP_STATUS[error.kind], str(error)
        log.error("request %s %s failed", request.method, request.path, exc_info=error)
        return 500, "internal error; the server's log has it"

    def _error(self, protocol: HttpProtocol, request: Request, error: Exception) -> Response:
        response = protocol.error(*self._told(request, error))
        if isinstance(error, HttpError):
            response.headers += error.headers
        retry_after_s = getattr(error, "retry_after_s", None)
        if retry_after_s is not None:
            response.headers += ((b"retry-after", str(max(1, round(retry_after_s))).encode()),)
        return response

    def _packed(self, request: Request, response: Response) -> tuple[int, list[Header], bytes]:
        body, headers = response.body, [*response.headers, *self._common(request)]
        if response.may_be_packed and len(body) >= self._spec.gzip_min_bytes:
            headers.append(self._vary_of_packed)
            if http_body.wants_gzip(request.headers):
                body = http_body.gzip(body)
                headers.append((b"content-encoding", b"gzip"))
        elif self._vary:
            headers += self._vary
        headers.append((b"content-length", b"%d" % len(body)))
        return response.status, headers, b"" if request.method == "HEAD" else body

    def _common(self, request: Request) -> list[Header]:
        headers = self._cors.headers(request.headers) if self._cors else []
        if self._names_requests:
            given = request.headers.get(b"x-request-id", b"")
            usable = 0 < len(given) <= 128 and not given.translate(None, _VISIBLE)
            made = given if usable else f"{self._process}-{next(self._number):x}".encode()
            headers.append((b"x-request-id", made))
        return headers

    def _own(self, method: str, path: str) -> Response:
        if path in ("/healthz", "/openapi.json", "/docs") and method not in ("GET", "HEAD"):
            refusal = json_response({"error": f"method {method} is not allowed at {path}; use GET"}, 405)
            refusal.headers += ((b"allow", b"GET, HEAD"),)
            return refusal
        if path == "/healthz":
            ready = self._plane.ready()
            document = {"status": "ok" if ready else "loading", "models": self._plane.models()}
            return json_response(document, 200 if ready else 503)
        if path == "/" and method in ("GET", "HEAD"):
            return json_response({"status": "alive"})  # what KServe's V1 clients ask
        if path == "/openapi.json":
            return json_response(openapi.document(self._protocols))
        if path == "/docs":
            return Response(200, openapi.docs_page(), ((b"content-type", b"text/html; charset=utf-8"),))
        roots = (f"/{root}/..." for root in self._by_root if root)
        have = ", ".join(["/healthz", "/openapi.json", "/docs", *roots])
        return json_response({"error": f"nothing at {method} {path}; have: {have}"}, 404)


@asynccontextmanager
async def _deadline(seconds: float | None) -> AsyncIterator[None]:
    """Hold the block to `seconds`; None is for ever.

    Raises:
        DeadlineExceeded: they have passed. A TimeoutError of the block's own stays one.
    """
    try:
        async with asyncio.timeout(seconds) as deadline:
            yield
    except TimeoutError as error:
        if not deadline.expired():
            raise
        raise DeadlineExceeded(f"no answer within {seconds:g} s") from error


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
