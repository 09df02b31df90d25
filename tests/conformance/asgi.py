"""Requests to the application through ASGI, without a port."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from raymill.serving.http import HttpApp

LIMIT = 4096
"""Largest body that the application under test takes."""


def send(
    app: HttpApp, path: str, body: Any = b"", method: str = "POST", parts: int = 1,
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:  # fmt: skip
    """Send a request through ASGI, its body in `parts` messages; return status, headers and body."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    size = -(-len(data) // parts) or 1
    chunks = [data[i : i + size] for i in range(0, len(data), size)] or [b""]
    path, _, query = path.partition("?")
    scope = {
        "type": "http", "method": method, "path": path, "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        chunk = chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}

    async def take(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, take))
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    assert len(answered) == len(sent[0]["headers"]), "a header comes twice"
    whole = b"".join(message["body"] for message in sent[1:])
    if "content-length" in answered and method != "HEAD":
        assert int(answered["content-length"]) == len(whole)
    return sent[0]["status"], answered, whole


def ask(app: HttpApp, path: str, body: Any = b"", method: str = "POST", **more: Any) -> tuple[int, Any]:
    """Send a request and return the status and the decoded JSON of the answer."""
    status, headers, answer = send(app, path, body, method, **more)
    assert headers["content-type"] == "application/json"
    return status, json.loads(answer or b"null")
