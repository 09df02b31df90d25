"""A process that serves the toys of every kind over gRPC, for clients that need a port.

python serve_toys_grpc.py FOLDER
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import toy

from raymill.repo import Repository
from raymill.serving import rpc
from raymill.serving.plane import Plane
from raymill.serving.spec import ModelSpec


async def main(folder: str) -> None:
    repository = Repository(str(Path(folder) / "models"))
    models = toy.publish_kinds(repository, Path(folder) / "staged")
    plane = Plane(repository, {model: ModelSpec() for model in models})
    plane.load()
    server, port = rpc.server(plane, "127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
