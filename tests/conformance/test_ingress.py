"""RPCs that pass Serve's wrappers: which do, and what Serve is told of them; on a real grpc.aio server."""

from __future__ import annotations

import asyncio
import types
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any
from unittest import mock

import grpc
import pytest

from raymill.serving import ingress, rpc
from raymill.serving.ingress import REQUEST_ID, _unary

METHOD = "/toy.Toys/Ask"


class Answer:
    def SerializeToString(self) -> bytes:
        return b"ours"


class Accounts:
    """Notes what it is told, as Serve's replica would count it."""

    application = "models"

    def __init__(self, admits: bool, full: bool = False) -> None:
        self.admits, self.is_full, self.ongoing = admits, full, 0
        self.told: list[tuple[str, str, bool]] = []

    def admit(self) -> bool:
        return self.admits

    def full(self) -> bool:
        return self.is_full

    def failed(self, took_ms: float, method: str, code: str, *, broke: bool) -> None:
        self.told.append((method, code, broke))

    async def enter(self) -> float:
        self.ongoing += 1
        return 0.0

    def leave(self, started: float, method: str, code: str, *, failed: bool, broke: bool) -> None:
        self.ongoing -= 1
        assert failed == (code != "OK")
        self.told.append((method, code, broke))


async def theirs(request: bytes, context: Any) -> bytes:
    return b"Serve's"


def ends(code: grpc.StatusCode | None = None) -> Callable[[bytes, Any], Any]:
    async def ask(request: bytes, context: Any) -> Answer:
        if code is not None:
            context.set_code(code)
        if request == b"wait":
            await asyncio.sleep(30)
        return Answer()

    return ask


def ask(
    accounts: Accounts, mine: Any, request: bytes = b"", timeout: float | None = 10, **metadata: str
) -> tuple[bytes | grpc.StatusCode, dict[str, Any]]:
    """Return the answer or the code, and the trailing metadata."""

    async def run() -> tuple[bytes | grpc.StatusCode, dict[str, Any]]:
        server = grpc.aio.server()
        handlers = {"Ask": grpc.unary_unary_rpc_method_handler(_unary(accounts, METHOD, mine, theirs))}  # type: ignore[arg-type]
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("toy.Toys", handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                call = channel.unary_unary(METHOD)(request, metadata=tuple(metadata.items()), timeout=timeout)
                try:
                    found: bytes | grpc.StatusCode = await call
                except grpc.aio.AioRpcError as error:
                    found = error.code()
                trailing = {} if timeout != 10 else dict(await call.trailing_metadata())
            await asyncio.sleep(0.2)  # a call that was cancelled is told of a little later
            return found, trailing
        finally:
            await server.stop(None)

    return asyncio.run(run())


def test_an_answer_is_ours_and_counted() -> None:
    accounts = Accounts(admits=True)
    assert ask(accounts, ends()) == (b"ours", {})
    assert accounts.told == [(METHOD, "OK", False)]
    assert accounts.ongoing == 0


def test_a_clients_name_for_a_request_comes_back() -> None:
    _, trailing = ask(Accounts(admits=True), ends(), **{REQUEST_ID: "mine"})
    assert trailing == {REQUEST_ID: "mine"}


@pytest.mark.parametrize(
    ("code", "broke"),
    [
        (grpc.StatusCode.NOT_FOUND, False),
        (grpc.StatusCode.INVALID_ARGUMENT, False),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, False),
        (grpc.StatusCode.INTERNAL, True),
        (grpc.StatusCode.UNAVAILABLE, True),
    ],
)
def test_a_bad_request_is_no_failure_of_the_deployment(code: grpc.StatusCode, broke: bool) -> None:
    accounts = Accounts(admits=True)
    assert ask(accounts, ends(code))[0] is code
    assert accounts.told == [(METHOD, code.name, broke)]


def test_a_client_that_leaves_frees_its_place() -> None:
    accounts = Accounts(admits=True)
    assert ask(accounts, ends(), b"wait", timeout=0.3)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert accounts.ongoing == 0
    assert accounts.told == [(METHOD, "CANCELLED", True)]


def test_a_full_replica_refuses_and_is_counted() -> None:
    accounts = Accounts(admits=True, full=True)
    assert ask(accounts, ends())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert accounts.told == [(METHOD, "RESOURCE_EXHAUSTED", False)]
    assert accounts.ongoing == 0


def test_what_serve_has_to_say_serve_says() -> None:
    full, other = Accounts(admits=False), Accounts(admits=True)
    assert ask(full, ends())[0] == b"Serve's"
    assert ask(other, ends(), application="others")[0] == b"Serve's"
    assert ask(other, ends(), application="models")[0] == b"ours"
    assert full.told == []


def replica() -> Any:
    """Return what Serve's replica is to `Accounts`: its real sums, slots and functions, and no process."""
    from ray.serve._private import replica as serves
    from ray.serve._private.common import DeploymentID, RequestProtocol
    from ray.serve._private.utils import Semaphore

    class Metrics(serves.ReplicaMetricsManager):
        def __init__(self) -> None:
            self._ingress, self._cached_metrics_enabled, self._num_ongoing_requests = True, True, 0
            self._ingress_metrics = dict.fromkeys(RequestProtocol)
            self._ingress_ongoing_requests = dict.fromkeys(RequestProtocol, 0)
            self._cached_request_counter, self._cached_error_counter = defaultdict(int), defaultdict(int)
            self._cached_latencies = defaultdict(deque)
            for name in ("ingress_request", "ingress_request_error", "deployment_request_error"):
                setattr(self, f"_cached_{name}_counter", defaultdict(lambda: defaultdict(int)))
            self._cached_ingress_processing_latencies = defaultdict(lambda: defaultdict(deque))
            window = {"window_duration_s": 600.0, "num_buckets": 10}
            self._user_code_time_accumulator = serves.RollingWindowAccumulator(**window)
            self._max_processing_latency_trackers = defaultdict(lambda: serves.RollingWindowMax(**window))
            self.reported = 0

        def _report_cached_metrics(self) -> None:
            self.reported += 1

        _is_direct_ingress = True

        def sums(self) -> dict[str, Any]:
            busy, longest = self._user_code_time_accumulator, self._max_processing_latency_trackers
            rest = {name: found for name, found in vars(self).items() if name.startswith("_cached_")}
            return rest | {"busy": busy.get_total(), "longest": {k: v.get_max() for k, v in longest.items()}}

    return types.SimpleNamespace(
        _semaphore=Semaphore(lambda: 2), _num_queued_requests=0, max_queued_requests=1,
        _metrics_manager=Metrics(), _route_prefix="/",
        _deployment_id=DeploymentID("ModelServer", "models"),
    )  # fmt: skip


@pytest.mark.parametrize("protocol", ["HTTP", "GRPC"])
def test_serve_is_told_what_its_own_functions_would_count(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.serve._private.replica.RAY_SERVE_HAPROXY_METRICS_ENABLED", False)
    mine, theirs = replica(), replica()
    accounts = ingress.Accounts(mine, protocol)
    serves, route = theirs._metrics_manager, "/" if protocol == "HTTP" else "models"
    requests = [("POST", "200", False, False)] * 3 + [
        ("GET", "200", False, False),
        ("POST", "404", True, False),
    ]
    requests += [("POST", "500", True, True), ("POST", "200", False, False)]

    async def run() -> None:
        for number, (method, code, failed, broke) in enumerate(requests):
            with monkeypatch.context() as clock:
                clock.setattr(ingress.time, "perf_counter", lambda: 0.0)
                started = await accounts.enter()
                assert mine._metrics_manager.get_num_ongoing_requests() == 1
                clock.setattr(ingress.time, "perf_counter", lambda now=number / 1000: now)
                accounts.leave(started, method, code, failed=failed, broke=broke)
            serves.record_request_metrics(route=route, latency_ms=float(number), is_error=broke)
            serves.record_ingress_request_metrics(
                protocol=accounts._protocol, method=method, route=route, app_name="models",
                deployment_name="ModelServer", latency_ms=float(number), is_error=failed, status_code=code,
            )  # fmt: skip

    asyncio.run(run())
    assert mine._metrics_manager.get_num_ongoing_requests() == 0
    mine._metrics_manager._report_cached_metrics()
    assert mine._metrics_manager.reported == 1
    found, expected = mine._metrics_manager.sums(), serves.sums()
    for latencies in (found, expected):  # what failed is told at once, before what succeeded
        latencies["_cached_latencies"] = {k: sorted(v) for k, v in latencies["_cached_latencies"].items()}
    assert found == expected
    accounts.hand_over()
    assert mine._metrics_manager.sums()["busy"] == serves.sums()["busy"], "told twice"


def test_serves_server_takes_messages_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve._private import grpc_util

    monkeypatch.setattr(grpc_util, "DEFAULT_GRPC_SERVER_OPTIONS", grpc_util.DEFAULT_GRPC_SERVER_OPTIONS)
    ingress._bound_messages(1 << 20)

    async def codes() -> list[str]:
        server = grpc_util.gRPCGenericServer(lambda **_: theirs)
        handlers = {"Ask": grpc.unary_unary_rpc_method_handler(theirs)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("toy.Toys", handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        found = []
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for size in (1 << 19, 1 << 21):
                try:
                    await channel.unary_unary(METHOD)(bytes(size), timeout=10)
                    found.append("OK")
                except grpc.aio.AioRpcError as error:
                    found.append(error.code().name)
        await server.stop(None)
        return found

    assert asyncio.run(codes()) == ["OK", "RESOURCE_EXHAUSTED"]


def test_serves_reflection_tells_the_public_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
    from ray.serve._private import grpc_util

    monkeypatch.setattr(grpc_util, "reflection", grpc_util.reflection)
    ingress._reflect_public_messages()

    def told(port: int) -> tuple[list[str], set[str]]:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            file = database.FindFileContainingSymbol("inference.GRPCInferenceService")
            return list(database.get_services()), {message.name for message in file.message_type}

    async def run() -> tuple[list[str], set[str]]:
        server = grpc_util.gRPCGenericServer(lambda **_: theirs)
        rpc.add_inference_service(mock.Mock(), server)
        grpc_util.enable_server_reflection(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        found = await asyncio.to_thread(told, port)
        await server.stop(None)
        return found

    services, messages = asyncio.run(run())
    assert "inference.GRPCInferenceService" in services
    assert {"ModelInferRequest", "ModelInferResponse"} <= messages


def test_metrics_that_cannot_be_exported_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """What ends the task that exports them ends the replica."""
    from raymill.serving.deployment import ModelServer

    class Broken:
        def export(self) -> None:
            raise UnicodeEncodeError("ascii", "è", 0, 1, "no metric")

    server = ModelServer.__new__(ModelServer)
    server._exporter, server._export_failed = Broken(), False  # type: ignore[assignment]
    server._export()
    server._export()
    assert [record.message for record in caplog.records] == ["metrics cannot be exported; going on without"]


def test_a_full_replica_admits_no_more() -> None:
    full = replica()
    accounts = ingress.Accounts(full, "HTTP")

    async def run() -> None:
        first, _ = await accounts.enter(), await accounts.enter()
        assert not accounts.admit()
        full._num_queued_requests = 1
        assert accounts.full()
        assert accounts.admit()  # and is refused at once
        full._num_queued_requests = 0
        accounts.leave(first, "POST", "200", failed=False, broke=False)
        assert accounts.admit()

    asyncio.run(run())
