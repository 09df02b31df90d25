"""A replica's servers: requests that need nothing of Serve's wrappers are answered without them.

Reaches into Ray's replica, whose names are those of the pinned Ray; where one is missing, requests take
Serve's ordinary way, and the log says so. What Serve must know is kept true: ongoing requests, on which
autoscaling and draining rest, the limit on them, and its counters and latencies.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import grpc
import ray

from raymill.serving import public
from raymill.serving.connection import connection_class
from raymill.serving.http import Header, HttpApp, Request
from raymill.serving.http_body import HttpError
from raymill.serving.rpc import Handler, limits

log = logging.getLogger(__name__)

REQUEST_ID = "request_id"
LATENCIES = 50
"""How many latencies Serve's histograms get in a tenth of a second: see `_bound_latencies`."""
WAITING_PARTS = 4
"""Parts of a body, of some 64 KiB each, that Serve may have read and the application not."""
RETRY_S = 1
FULL = f"this replica works on as many requests as it may, and as many wait; try again in {RETRY_S} s"
BROKE = frozenset(
    (
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
    )
)
"""Codes by which the deployment failed and not the request, as 500 and above over HTTP."""
ServeHandler = Callable[[Any, Any], Awaitable[bytes]]


class Accounts:
    """What Serve's replica counts of the requests of one protocol, kept by its own means.

    Ongoing requests are exact at any time. What succeeded is summed up, and Serve is told when it hands its
    own sums on, ten times a second; what failed it is told of at once.
    """

    def __init__(self, replica: Any, protocol: str) -> None:
        from ray.serve._private.common import RequestMetadata, RequestProtocol
        from ray.serve._private.request_ingress_metrics import RequestIngressMetrics

        self._slots, metrics = replica._semaphore, replica._metrics_manager
        self._replica, _ = replica, replica._num_queued_requests
        # looked up now, so that a missing name shows before a request does
        self._begin, self._end = metrics.inc_num_ongoing_requests, metrics.dec_num_ongoing_requests
        self._record = metrics.record_request_metrics
        self._record_ingress = metrics.record_ingress_request_metrics
        self._busy_ms = metrics._user_code_time_accumulator
        self._longest_ms = metrics._max_processing_latency_trackers
        self._requests, self._latencies = metrics._cached_request_counter, metrics._cached_latencies
        self._ingress_requests = metrics._cached_ingress_request_counter
        self._ingress_latencies = metrics._cached_ingress_processing_latencies
        self._tags = RequestIngressMetrics.request_tags
        self._protocol = RequestProtocol[protocol]
        self._deployment, self.application = replica._deployment_id.name, replica._deployment_id.app_name
        self._route = replica._route_prefix if protocol == "HTTP" else self.application
        self._metadata = RequestMetadata(
            request_id="", internal_request_id="", is_direct_ingress=True, _request_protocol=self._protocol
        )
        self._succeeded: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        """By method and code, how many milliseconds each took."""
        report = metrics._report_cached_metrics

        def hand_over_and_report() -> None:
            self.hand_over()
            report()

        metrics._report_cached_metrics = hand_over_and_report

    def admit(self) -> bool:
        """Whether a request need not wait: it has a slot, or is refused."""
        return not self._slots.locked() or self.full()

    def full(self) -> bool:
        """Whether as many requests as may are in work, and as many as may wait."""
        if not self._slots.locked():
            return False
        most = self._replica.max_queued_requests
        return bool(0 <= most <= self._replica._num_queued_requests)

    async def enter(self) -> float:
        """Count a request that begins, once the replica may have one more; returns when it began."""
        await self._slots.acquire()
        self._begin(self._metadata)
        return time.perf_counter()

    def leave(self, started: float, method: str, code: str, *, failed: bool, broke: bool) -> None:
        """Count a request that has ended.

        Args:
            failed: Whether its code is that of an error, be it the client's.
            broke: Whether it is the deployment's.
        """
        self._end(self._metadata)
        self._slots.release()
        took_ms = (time.perf_counter() - started) * 1000
        if failed:
            self.failed(took_ms, method, code, broke=broke)
        else:
            self._succeeded[method, code].append(took_ms)

    def failed(self, took_ms: float, method: str, code: str, *, broke: bool) -> None:
        """Tell Serve of a request that failed."""
        self._record(route=self._route, latency_ms=took_ms, is_error=broke)
        self._record_ingress(
            protocol=self._protocol, method=method, route=self._route, app_name=self.application,
            deployment_name=self._deployment, latency_ms=took_ms, is_error=True, status_code=code,
        )  # fmt: skip

    def hand_over(self) -> None:
        """Add what has succeeded to Serve's sums, as its own functions would one by one."""
        succeeded, self._succeeded = self._succeeded, defaultdict(list)
        for (method, code), each_ms in succeeded.items():
            self._busy_ms.add(sum(each_ms))
            self._longest_ms[self._route].add(max(each_ms))
            self._requests[self._route] += len(each_ms)
            self._latencies[self._route].extend(each_ms)
            tags = self._tags(
                route=self._route, method=method, application=self.application, status_code=code
            )
            key = frozenset(tags.items())
            self._ingress_requests[self._protocol][key] += len(each_ms)
            self._ingress_latencies[self._protocol][key].extend(each_ms)


def install(app: HttpApp, methods: Mapping[str, Handler], max_message_bytes: int) -> None:
    """Have this replica answer through `app` and `methods` where it can; the log says where it cannot.

    To be called before the replica's servers start.

    Args:
        methods: By full name, package.Service.Method, what answers an RPC.
        max_message_bytes: Of a gRPC message, unpacked; Serve's own limit is 2 GiB.
    """
    try:
        _bound_messages(max_message_bytes)
        _reflect_public_messages()
        replica = _replica()
        if not replica._metrics_manager._cached_metrics_enabled:
            raise RuntimeError("RAY_SERVE_METRICS_EXPORT_INTERVAL_MS=0 has each request observed at once")
        _bound_latencies(replica._metrics_manager)
        _bound_bodies()
        _install_http(replica, app)
        _install_grpc(replica, methods)
    except Exception as error:  # whatever another Ray has in its place
        log.warning("requests take Serve's ordinary way, which is slower: %r", error)


def _bound_messages(max_bytes: int) -> None:
    """Have the gRPC server that Serve is to start in this replica refuse larger messages, unpacked or not."""
    from ray.serve._private import grpc_util

    options = dict(grpc_util.DEFAULT_GRPC_SERVER_OPTIONS) | dict(limits(max_bytes))
    grpc_util.DEFAULT_GRPC_SERVER_OPTIONS = list(options.items())


def _reflect_public_messages() -> None:
    """Have Serve's reflection tell the protocols' public messages in the place of ours."""
    from ray.serve._private import grpc_util

    name, _ = grpc_util.reflection.SERVICE_NAME, grpc_util.enable_server_reflection
    grpc_util.reflection = SimpleNamespace(SERVICE_NAME=name, enable_server_reflection=public.reflect)


def _bound_latencies(metrics: Any) -> None:
    """Have Serve's two histograms observe the last LATENCIES of each tenth of a second, by route and code.

    One observation costs some 8 us, a seventh of a replica's time under load. Quantiles stay what they are;
    requests and errors are counted one and all, by Serve's counters and by `raymill_request_seconds`.
    """
    bounded: Callable[[], deque[float]] = partial(deque, maxlen=LATENCIES)
    metrics._cached_latencies.default_factory = bounded
    metrics._cached_ingress_processing_latencies.default_factory = partial(defaultdict, bounded)


def _bound_bodies() -> None:
    """Have a body that comes faster than it is read wait at the client.

    Serve reads whatever comes into a queue of its own, so that it hears when a client goes, and a stream of
    lines would be in memory as a whole. Of a full queue it hears once that has been read.
    """
    from ray.serve._private.replica import ASGIDIReceiveProxy

    def queue(self: Any) -> Any:
        if self._queue is None:
            self._queue = asyncio.Queue(WAITING_PARTS)
        return self._queue

    if not isinstance(ASGIDIReceiveProxy.queue, property):
        raise RuntimeError("Serve keeps what it has read of a body elsewhere")
    ASGIDIReceiveProxy.queue = property(queue)


def _install_http(replica: Any, app: HttpApp) -> None:
    accounts, start = Accounts(replica, "HTTP"), replica._maybe_start_direct_ingress_servers
    if replica._route_prefix != "/":
        return  # Serve takes the prefix off

    async def respond(request: Request) -> tuple[int, list[Header], bytes]:
        if accounts.full():
            refused = app.refuse(request, HttpError(503, FULL, ((b"retry-after", b"%d" % RETRY_S),)))
            if refused[0] == 503:
                accounts.failed(0.0, request.method, "503", broke=True)
            return refused
        started, status = await accounts.enter(), 500
        try:
            status, headers, body = await app.respond(request, None)
            return status, headers, body
        finally:
            accounts.leave(started, request.method, str(status), failed=status >= 400, broke=status >= 500)

    async def start_servers() -> None:
        await start()
        server = replica._direct_ingress_http_server
        if server is not None:
            if not server.config.loaded:
                server.config.load()
            server.config.http_protocol_class = connection_class(respond, accounts.admit)

    replica._maybe_start_direct_ingress_servers = start_servers


def _install_grpc(replica: Any, methods: Mapping[str, Handler]) -> None:
    accounts, make = Accounts(replica, "GRPC"), replica._direct_ingress_service_handler_factory
    own = {"/" + "/".join(name.rsplit(".", 1)): method for name, method in methods.items()}

    def factory(service_method: str, streaming_type: Any) -> Any:
        theirs = make(service_method, streaming_type)
        if service_method not in own or streaming_type.name != "UNARY_UNARY":
            return theirs
        return _unary(accounts, service_method, own[service_method], theirs)

    replica._direct_ingress_service_handler_factory = factory


def _unary(accounts: Accounts, name: str, mine: Handler, theirs: ServeHandler) -> ServeHandler:
    """Return what answers one RPC: `mine`, or Serve's `theirs` where Serve has something to say."""
    here = ("", accounts.application)

    async def handle(request: bytes, context: Any) -> bytes:
        metadata = dict(context.invocation_metadata())
        if not accounts.admit() or metadata.get("application", "") not in here:
            return await theirs(request, context)
        if accounts.full():
            accounts.failed(0.0, name, grpc.StatusCode.RESOURCE_EXHAUSTED.name, broke=False)
            context.set_trailing_metadata((("grpc-retry-pushback-ms", f"{RETRY_S * 1000}"),))
            context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
            context.set_details(FULL)
            return b""
        if REQUEST_ID in metadata:
            context.set_trailing_metadata(((REQUEST_ID, metadata[REQUEST_ID]),))
        started, code = await accounts.enter(), grpc.StatusCode.CANCELLED
        try:
            answer = await mine(request, context)
            code = context.code() or grpc.StatusCode.OK
            return bytes(answer.SerializeToString())
        finally:
            failed = code is not grpc.StatusCode.OK
            accounts.leave(started, name, code.name, failed=failed, broke=code in BROKE)

    return handle


def _replica() -> Any:
    """Return the object of Serve that runs this replica."""
    worker = ray._private.worker.global_worker
    return worker.actors[worker.actor_id]._replica_impl
