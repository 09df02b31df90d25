"""A process that serves the toys of every kind with uvicorn, for clients that need a port.

python serve_toys.py FOLDER PORT
"""

from __future__ import annotations

import sys
from pathlib import Path

import toy
import uvicorn

from raymill.repo import Repository
from raymill.serving import PROTOCOLS
from raymill.serving.http import HttpApp
from raymill.serving.plane import Plane
from raymill.serving.spec import ModelSpec


def main(folder: str, port: str) -> None:
    repository = Repository(str(Path(folder) / "models"))
    models = toy.publish_kinds(repository, Path(folder) / "staged")
    plane = Plane(repository, {model: ModelSpec() for model in models})
    plane.load()
    app = HttpApp(plane, [PROTOCOLS.load(name)(plane) for name in PROTOCOLS], 64 << 20)
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
