"""gRPC clients that nobody here wrote, each in an environment and a process of its own; no Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from environments import run

HERE = Path(__file__).parent


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


def test_tritonclient(address: str) -> None:
    found = run("tritonclient_grpc", address)
    assert {"model_repository", "statistics"} <= set(found["extensions"])
    assert found["scores"] == [[3.0, 4.0, 20.0]] * 2
    assert found["large"] == [6.0]
    assert (found["unloaded"], found["loaded"]) == ("UNAVAILABLE", True)
    assert found["rows_counted"] >= 50_000
    codes, messages = zip(*found["refused"], strict=True)
    not_found, invalid = "StatusCode.NOT_FOUND", "StatusCode.INVALID_ARGUMENT"
    assert codes == (not_found, invalid, invalid, not_found, not_found)
    assert "Did you mean 'toy'" in messages[0]
    assert "missing inputs: w" in messages[1]
    assert "has shape [3, 2]" in messages[2]


@pytest.mark.timeout(600)
def test_tensorflow_serving_api(address: str) -> None:
    found = run("tfserving_iris", address, timeout=300)
    assert found["predictions"] == [18.0]
    assert found["input"] == ["float32", [-1, 3]]
    assert found["states"] == [[1, "AVAILABLE"]]
    assert (found["class"], found["regressed"]) == ("high", 3.0)
    codes, messages = zip(*found["refused"], strict=True)
    assert codes == ("NOT_FOUND", "INVALID_ARGUMENT", "NOT_FOUND")
    assert "Did you mean 'toy'" in messages[0]
    assert "has shape [1, 2]" in messages[1]
