"""Cross-origin requests of browsers: which origins may read answers. https://fetch.spec.whatwg.org"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Header = tuple[bytes, bytes]
Headers = Mapping[bytes, bytes]

MAX_AGE_S = 600


class Cors:
    """Headers for browsers; `origins` are exact ("https://app.example.com"), or "*" for any."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._any = "*" in origins
        self.varies = not self._any
        """Whether the headers of an answer are other ones for another origin, or for none."""
        self._origins = frozenset(origin.encode() for origin in origins)

    def headers(self, request: Headers) -> list[Header]:
        """Return what lets the asking origin read an answer; nothing for an origin that may not."""
        origin = request.get(b"origin")
        if origin is None or not (self._any or origin in self._origins):
            return []
        return [
            (b"access-control-allow-origin", b"*" if self._any else origin),
            (b"access-control-expose-headers", b"x-request-id, inference-header-content-length, retry-after"),
        ]

    def preflight(self, request: Headers) -> list[Header]:
        """Return the answer to a browser's question whether it may send a request."""
        return [
            (b"access-control-allow-methods", b"GET, POST, PUT, DELETE, OPTIONS"),
            (b"access-control-allow-headers", request.get(b"access-control-request-headers", b"*")),
            (b"access-control-max-age", str(MAX_AGE_S).encode()),
        ]


def is_preflight(method: str, request: Headers) -> bool:
    return method == "OPTIONS" and b"access-control-request-method" in request and b"origin" in request
