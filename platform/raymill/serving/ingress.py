"""The replica's HTTP server: requests that need nothing of Serve's wrappers are answered without them.

Reaches into Ray's replica, whose names are those of the pinned Ray; where one is missing, requests take
Serve's ordinary way, and the log says so. What Serve must know is kept true: ongoing requests, on which
autoscaling and draining rest, the limit on them, and its counters and latencies.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import ray

from raymill.serving.connection import connection_class
from raymill.serving.http import Header, HttpApp, Request

log = logging.getLogger(__name__)


class Accounts:
    """What Serve's replica counts of a request, kept by its own means."""

    def __init__(self, replica: Any) -> None:
        from ray.serve._private.common import RequestMetadata, RequestProtocol

        self._slots, metrics = replica._semaphore, replica._metrics_manager
        # looked up now, so that a missing name shows before a request does
        self._begin, self._end = metrics.inc_num_ongoing_requests, metrics.dec_num_ongoing_requests
        self._record = metrics.record_request_metrics
        self._route = replica._route_prefix
        self._metadata = RequestMetadata(
            request_id="", internal_request_id="", is_direct_ingress=True,
            _request_protocol=RequestProtocol.HTTP,
        )  # fmt: skip

    def admit(self) -> bool:
        """Whether the replica has fewer requests than it may."""
        return not self._slots.locked()

    async def enter(self) -> float:
        await self._slots.acquire()
        self._begin(self._metadata)
        return time.perf_counter()

    def leave(self, started: float, broke: bool) -> None:
        self._end(self._metadata)
        self._slots.release()
        self._record(route=self._route, latency_ms=(time.perf_counter() - started) * 1000, is_error=broke)


def install(app: HttpApp) -> bool:
    """Have this replica answer over HTTP through `app` where it can; returns whether it will.

    To be called before the replica's servers start.
    """
    try:
        replica = _replica()
        accounts = Accounts(replica)
        start = replica._maybe_start_direct_ingress_servers
        if replica._route_prefix != "/":
            return False  # Serve takes the prefix off
    except Exception as error:  # whatever another Ray has in its place
        log.warning("requests take Serve's ordinary way, which is slower: %r", error)
        return False

    async def respond(request: Request) -> tuple[int, list[Header], bytes]:
        started, status = await accounts.enter(), 500
        try:
            status, headers, body = await app.respond(request, None)
            return status, headers, body
        finally:
            accounts.leave(started, status >= 500)

    async def start_servers() -> None:
        await start()
        server = replica._direct_ingress_http_server
        if server is not None:
            if not server.config.loaded:
                server.config.load()
            server.config.http_protocol_class = connection_class(respond, accounts.admit)

    replica._maybe_start_direct_ingress_servers = start_servers
    return True


def _replica() -> Any:
    """Return the object of Serve that runs this replica."""
    worker = ray._private.worker.global_worker
    return worker.actors[worker.actor_id]._replica_impl
