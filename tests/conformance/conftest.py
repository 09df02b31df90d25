"""One plane with a toy of every kind, behind all HTTP protocols."""

from __future__ import annotations

import pytest
import toy
from asgi import LIMIT

from raymill.repo import Repository
from raymill.serving import PROTOCOLS
from raymill.serving.http import HttpApp
from raymill.serving.plane import Plane
from raymill.serving.spec import ModelSpec


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> HttpApp:
    root = tmp_path_factory.mktemp("served")
    repository = Repository(str(root / "models"))
    models = toy.publish_kinds(repository, root / "staged")
    plane = Plane(repository, {model: ModelSpec() for model in models})
    plane.load()
    return HttpApp(plane, [PROTOCOLS.load(name)(plane) for name in PROTOCOLS], LIMIT)
