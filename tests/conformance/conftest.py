"""One plane with a toy of every kind, behind all HTTP protocols, and behind all of gRPC on a real server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import toy
from asgi import LIMIT
from google.protobuf import message_factory

from raymill.repo import Repository
from raymill.serving import GRPC_PROTOCOLS, PROTOCOLS, rpc
from raymill.serving.http import HttpApp
from raymill.serving.plane import Plane
from raymill.serving.spec import ModelSpec

HERE = Path(__file__).parent
Ask = Callable[[str, Any], Any]
METHODS = {
    method.name: method for name in GRPC_PROTOCOLS for method in rpc.methods(GRPC_PROTOCOLS.load(name))
}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Plane:
    root = tmp_path_factory.mktemp("served")
    repository = Repository(str(root / "models"))
    models = toy.publish_kinds(repository, root / "staged")
    made = Plane(repository, {model: ModelSpec() for model in models})
    made.load()
    return made


@pytest.fixture(scope="module")
def app(plane: Plane) -> HttpApp:
    return HttpApp(plane, [PROTOCOLS.load(name)(plane) for name in PROTOCOLS], LIMIT)


@pytest.fixture(scope="module")
def ask(plane: Plane) -> Iterator[Ask]:
    """Return a function that calls an RPC by name; its failure is the grpc.aio.AioRpcError."""
    with asyncio.Runner() as runner:

        async def start() -> tuple[Any, Any]:
            server, port = rpc.server(plane, "127.0.0.1:0")
            await server.start()
            return server, grpc.aio.insecure_channel(f"127.0.0.1:{port}")

        server, channel = runner.run(start())

        def call(name: str, request: Any) -> Any:
            method = METHODS[name]

            async def one() -> Any:
                return await channel.unary_unary(
                    f"/{method.containing_service.full_name}/{name}",
                    request_serializer=lambda message: message.SerializeToString(),
                    response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
                )(request, timeout=20)

            return runner.run(one())

        yield call

        async def stop() -> None:
            await channel.close()
            await server.stop(None)

        runner.run(stop())


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a process that serves the toys."""
    root = HERE.parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root / "platform"), str(root / "tests")])}
    command = [sys.executable, str(HERE / "serve_toys_grpc.py"), str(tmp_path_factory.mktemp("toys"))]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            assert port.isdigit(), f"the server's exit status is {server.poll()}"
            yield f"127.0.0.1:{port}"
        finally:
            server.terminate()
