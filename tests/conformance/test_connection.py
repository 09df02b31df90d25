"""Connections that answer whole requests at once: what comes out is what uvicorn's own way gives."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import toy
import uvicorn

from raymill.repo import Repository
from raymill.serving import PROTOCOLS
from raymill.serving.connection import connection_class
from raymill.serving.http import Header, HttpApp, Request
from raymill.serving.plane import Plane
from raymill.serving.spec import ModelSpec


class Both:
    """Answers with the request's path and body; says which way it took."""

    def __init__(self, admits: bool = True) -> None:
        self.admits = admits

    async def respond(self, request: Request) -> tuple[int, list[Header], bytes]:
        if request.path == "/fails":
            raise RuntimeError("nobody foresaw this")
        await asyncio.sleep(0.01)  # so that what is pipelined comes meanwhile
        body = b"at once %s %s" % (request.path.encode(), request.body)
        return 200, [(b"content-length", b"%d" % len(body))], b"" if request.method == "HEAD" else body

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        body = b"by Serve %s %s" % (scope["path"].encode(), body)
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def exchange(sent: bytes, count: int, both: Both | None = None) -> list[bytes]:
    """Send bytes over one connection; return the bodies of `count` answers."""
    both = both or Both()

    async def ask(port: int) -> list[bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        bodies = []
        for _ in range(count):
            head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).lower()
            size = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            bodies.append(await reader.readexactly(size))
        writer.close()
        await writer.wait_closed()
        return bodies

    return served(both, ask)


def served(both: Both, ask: Callable[[int], Awaitable[Any]], keep_alive_s: float = 5) -> Any:
    async def main() -> Any:
        config = uvicorn.Config(
            both.app, interface="asgi3", log_config=None, lifespan="off",
            timeout_keep_alive=keep_alive_s,  # type: ignore[arg-type]
        )  # fmt: skip
        config.load()
        config.http_protocol_class = connection_class(both.respond, lambda: both.admits)
        server = uvicorn.Server(config)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            running = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started:
                await asyncio.sleep(0.01)
            try:
                return await ask(listener.getsockname()[1])
            finally:
                server.should_exit = True
                await running

    return asyncio.run(main())


def test_a_whole_request_is_answered_at_once() -> None:
    assert exchange(post("/a%20b", b"xyz"), 1) == [b"at once /a b xyz"]


def test_requests_follow_each_other_on_a_connection() -> None:
    assert exchange(post("/1", b"a") + post("/2", b"b") + post("/3", b""), 3) == [
        b"at once /1 a", b"by Serve /2 b", b"by Serve /3 ",
    ]  # fmt: skip


def test_streams_and_chunks_go_by_serve() -> None:
    ndjson = post("/n", b"1\n", "content-type: application/x-ndjson")
    assert exchange(ndjson, 1) == [b"by Serve /n 1\n"]
    chunked = b"POST /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    assert exchange(chunked, 1) == [b"by Serve /c ab"]
    assert exchange(post("/-/healthz", b""), 1) == [b"by Serve /-/healthz "]


def test_a_full_replica_leaves_requests_to_serve() -> None:
    assert exchange(post("/1", b"a"), 1, Both(admits=False)) == [b"by Serve /1 a"]


def test_a_connection_closes_where_the_client_asks() -> None:
    async def ask(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post("/1", b"a", "connection: close"))
        answer = await asyncio.wait_for(reader.read(), 10)  # ends only because the server closes
        writer.close()
        await writer.wait_closed()
        return answer

    answer = served(Both(), ask)
    assert b"connection: close\r\n" in answer
    assert answer.endswith(b"at once /1 a")


def test_what_nobody_foresaw_is_answered_and_the_connection_goes_on() -> None:
    found = exchange(post("/fails", b"1") + post("/b", b"2"), 2)
    assert found[0] == b"internal server error\n"
    assert found[1].endswith(b"/b 2")


def test_an_idle_connection_closes_in_time_and_one_in_use_does_not() -> None:
    idle_s = 0.4

    async def ask(port: int) -> tuple[int, float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answered = 0
        for pause_s in (0.0, 0.3, 0.3, 0.3):  # longer than idle_s together, shorter one by one
            await asyncio.sleep(pause_s)
            writer.write(post("/1", b"a"))
            await asyncio.wait_for(reader.readuntil(b"at once /1 a"), 10)
            answered += 1
        writer.write(post("/1", b"a")[:-1])  # a request that takes longer than idle_s to come
        await asyncio.sleep(2 * idle_s)
        writer.write(b"a")
        await asyncio.wait_for(reader.readuntil(b"at once /1 a"), 10)
        await asyncio.sleep(0.5 * idle_s)
        writer.write(post("/1", b"a"))  # the timer that runs is the one before's
        await asyncio.wait_for(reader.readuntil(b"at once /1 a"), 10)
        ended = asyncio.get_running_loop().time()
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        return answered, asyncio.get_running_loop().time() - ended

    answered, closed_after_s = served(Both(), ask, idle_s)
    assert answered == 4
    assert 0.9 * idle_s < closed_after_s < 5


def test_what_goes_by_serve_is_heard_whole() -> None:
    """Its first lines were read by our own means."""
    got: dict[str, Any] = {}

    class Notes(Both):
        async def app(self, scope: Any, receive: Any, send: Any) -> None:
            got.update(scope)
            await super().app(scope, receive, send)

    sent = post("/a%20b?x=1", b"c", "X-Twice: 1", "x-twice: 2", "Expect: 100-continue")

    async def ask(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        answer = await asyncio.wait_for(reader.readuntil(b"by Serve /a b c"), 10)
        writer.close()
        return answer

    assert b"100 Continue" in served(Notes(), ask)
    assert (got["method"], got["path"], got["query_string"]) == ("POST", "/a b", b"x=1")
    assert [value for name, value in got["headers"] if name == b"x-twice"] == [b"1", b"2"]


def test_a_body_is_let_go_once_it_is_answered() -> None:
    """Left to the garbage collector, those of 200 requests would be kept, of up to 4 MiB each."""
    both, kept = Both(), []

    async def ask(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(3):
            writer.write(post(f"/{number}", b"x" * 1000))
            await asyncio.wait_for(reader.readuntil(b"x" * 1000), 10)
        kept.extend(found for found in gc.get_objects() if type(found) is Request)
        writer.close()
        await writer.wait_closed()

    gc.collect()
    gc.disable()
    try:
        served(both, ask)
    finally:
        gc.enable()
    assert len(kept) <= 1  # the connection still has the last


def test_an_answer_without_a_length_ends_by_closing_for_http_1_0() -> None:
    class Streams(Both):
        async def app(self, scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for part in (b"1\n", b"", b"23\n"):
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"4\n"})

    def answer(both: Both, version: str, *headers: str) -> tuple[bytes, bytes]:
        async def ask(port: int) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            sent = post("/n", b"1\n", "content-type: application/x-ndjson", *headers)
            writer.write(sent.replace(b"HTTP/1.1", version.encode(), 1))
            found = await asyncio.wait_for(reader.read(), 10)
            writer.close()
            await writer.wait_closed()
            return found

        head, _, body = served(both, ask).partition(b"\r\n\r\n")
        return head.lower(), body

    head, body = answer(Streams(), "HTTP/1.0", "connection: keep-alive")
    assert (body, b"transfer-encoding" in head, b"connection: close" in head) == (b"1\n23\n4\n", False, True)
    head, body = answer(Both(), "HTTP/1.0")
    assert (body, b"content-length: " in head) == (b"by Serve /n 1\n", True)
    head, body = answer(Streams(), "HTTP/1.1", "connection: close")
    assert (body, b"chunked" in head) == (b"2\r\n1\n\r\n3\r\n23\n\r\n2\r\n4\n\r\n0\r\n\r\n", True)


def test_what_did_not_come_whole_is_not_acted_on(tmp_path: Path) -> None:
    repository = Repository(str(tmp_path / "models"))
    toy.publish_kinds(repository, tmp_path / "staged")
    plane, seen = Plane(repository, {"toy": ModelSpec()}), []
    plane.load()
    app = HttpApp(
        plane, [PROTOCOLS.load(name)(plane) for name in PROTOCOLS], 8 << 20,
        observe=lambda *one: seen.append(one[3]),
    )  # fmt: skip

    class Whole(Both):
        async def respond(self, request: Request) -> tuple[int, list[Header], bytes]:
            return await app.respond(request, None)

        async def app(self, scope: Any, receive: Any, send: Any) -> None:
            await app(scope, receive, send)

    asked = (b"POST /v2/repository/models/toy/unload", b"DELETE /models/toy")
    ends = (
        b"content-length: 5000000\r\n\r\n", b"content-length: 5000000\r\n\r\n{}",
        b"content-length: 2\r\n\r\n{", b"content-length: 2\r\nexpect: 100-continue\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
    )  # fmt: skip

    async def leave(port: int) -> None:
        for line in asked:
            for end in ends:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(line + b" HTTP/1.1\r\nhost: x\r\n" + end)
                await asyncio.sleep(0.05)
                writer.close()
                await writer.wait_closed()
        await asyncio.sleep(0.3)

    served(Whole(), leave)
    assert "toy" in plane.served()
    assert seen == ["400"] * 10  # those of a small known size had not been asked yet
