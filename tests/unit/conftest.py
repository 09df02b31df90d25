"""Unit tests run without Ray and without a network; both fail loudly where a test reaches for them."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import ray
from hypothesis import settings

settings.register_profile("raymill", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("raymill")

ENVIRONMENT = ("RAYMILL_STORAGE", "RAYMILL_COMMIT", "RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR")


@pytest.fixture(autouse=True)
def _pure(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray, no connection, and none of the variables that change what Raymill does."""

    def no_ray(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a unit test called ray.init; move it to tests/cluster")

    def no_network(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"a unit test connected to {address!r}; move it to tests/cluster")

    monkeypatch.setattr(ray, "init", no_ray)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
