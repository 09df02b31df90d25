"""RPCs that pass Serve's wrappers: which do, and what Serve is told of them; on a real grpc.aio server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from raymill.serving.ingress import REQUEST_ID, _unary

METHOD = "/toy.Toys/Ask"


class Answer:
    def SerializeToString(self) -> bytes:
        return b"ours"


class Accounts:
    """Notes what it is told, as Serve's replica would count it."""

    application = "models"

    def __init__(self, admits: bool) -> None:
        self.admits, self.ongoing = admits, 0
        self.told: list[tuple[str, str, bool]] = []
        self._broke = False

    def admit(self) -> bool:
        return self.admits

    async def enter(self) -> float:
        self.ongoing += 1
        return 0.0

    def leave(self, started: float, broke: bool) -> float:
        self.ongoing -= 1
        self._broke = broke
        return 1.0

    def count(self, method: str, code: str, failed: bool, took_ms: float) -> None:
        assert failed == (code != "OK")
        self.told.append((method, code, self._broke))


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


def test_what_serve_has_to_say_serve_says() -> None:
    full, other = Accounts(admits=False), Accounts(admits=True)
    assert ask(full, ends())[0] == b"Serve's"
    assert ask(other, ends(), application="others")[0] == b"Serve's"
    assert ask(other, ends(), application="models")[0] == b"ours"
    assert full.told == []
