"""A real local Ray for each test process, started by `raymill up` itself, on ports of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
os.environ["RAY_AUTH_MODE"] = "token"  # read when ray is first imported


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Cluster:
    """The running cluster and how to reach it."""

    environment: dict[str, str]
    dashboard: str
    ray_address: str
    serve_port: int
    grpc_port: int
    storage: Path
    home: Path

    def run(self, *command: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, text=True, capture_output=True, timeout=timeout
        )

    def workers(self) -> list[int]:
        """Return the process ids of this cluster's Ray Train workers."""
        head = json.loads((self.home / "cluster.json").read_text())["pid"]
        return [
            process.pid
            for process in psutil.Process(head).children(recursive=True)
            if "RayTrainWorker" in " ".join(process.cmdline())
        ]

    def end_serve(self) -> None:
        """Shut Serve down, where it runs: the next one may listen elsewhere."""
        done = self.run("serve", "shutdown", "--yes", "--address", self.dashboard)
        assert done.returncode == 0, done.stdout + done.stderr

    def submit(self, *command: str, timeout: float = 240) -> tuple[int, str]:
        """Submit a job as the README does; return its exit status and everything it printed."""
        line = ("ray", "job", "submit", "--working-dir", ".", "--", "python", *command)
        try:
            done = self.run(*line, timeout=timeout)
        except subprocess.TimeoutExpired as late:
            printed = b"".join(filter(None, (late.stdout, late.stderr))).decode()
            held = self.run("ray", "status", "--address", self.ray_address).stdout
            held += self.run("ray", "list", "actors", "--filter", "state=ALIVE", "--detail").stdout
            raise AssertionError(
                f"{command} took over {timeout:g} s, and printed:\n{printed}\n{held}"
            ) from None
        return done.returncode, done.stdout + done.stderr


def closing_line(output: str) -> dict[str, Any]:
    """Return the job's closing JSON line."""
    return json.loads(next(line for line in reversed(output.splitlines()) if line.startswith('{"')))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("raymill-home"), tmp_path_factory.mktemp("storage")) as started:
        yield started


@contextmanager
def running(home: Path, storage: Path) -> Iterator[Cluster]:
    """Start a cluster with its state in `home`, and end it; nothing of it may be left."""
    dashboard_port, ray_port, serve_port, grpc_port = (free_port() for _ in range(4))
    environment = {
        **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "RAYMILL_HOME": str(home),
        "RAYMILL_STORAGE": str(storage),
        "RAY_AUTH_TOKEN_PATH": str(home / "token"),
        "RAY_AUTH_MODE": "token",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    up = subprocess.run(
        ["raymill", "up", f"--dashboard-port={dashboard_port}", f"--ray-port={ray_port}", "--cpus=4"],
        cwd=ROOT, env=environment, text=True, capture_output=True, timeout=120,
    )  # fmt: skip
    assert up.returncode == 0, up.stdout + up.stderr
    exports = dict(line.removeprefix("export ").split("=", 1) for line in up.stdout.splitlines())
    started = Cluster(
        environment | exports,
        exports["RAY_ADDRESS"],
        f"127.0.0.1:{ray_port}",
        serve_port,
        grpc_port,
        storage,
        home,
    )
    temp_dir = json.loads((home / "cluster.json").read_text())["temp_dir"]
    yield started
    down = started.run("raymill", "down")
    assert down.returncode == 0, down.stdout + down.stderr
    left = subprocess.run(["pgrep", "-fa", temp_dir], text=True, capture_output=True).stdout
    shutil.rmtree(temp_dir, ignore_errors=True)
    assert not left, f"raymill down left processes running:\n{left}"


@pytest.fixture(scope="session")
def joined(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, with this process connected to it as a driver."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAYMILL_STORAGE", "RAY_AUTH_TOKEN_PATH"):
            patch.setenv(name, cluster.environment[name])
        patch.setenv("RAY_ADDRESS", cluster.ray_address)
        import ray

        from raymill.cluster import connect

        connect()
        yield cluster
        ray.shutdown()


@pytest.fixture(scope="session")
def flights(cluster: Cluster) -> Path:
    """The flights dataset, prepared by the example's own job."""
    code, output = cluster.submit("jobs/prepare.py", "--config", "examples/flights/prepare.yaml")
    assert code == 0, output
    return cluster.storage / "data" / "flights"


Edit = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture
def train_spec(tmp_path: Path) -> Callable[..., Any]:
    """Return the flights train spec as a TrainSpec, with overrides as on the command line."""
    from raymill import config
    from raymill.train.spec import TrainSpec

    def make(*overrides: str) -> TrainSpec:
        return config.load(TrainSpec, ROOT / "examples/flights/train.yaml", overrides)

    return make
