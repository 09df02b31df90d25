"""Deploying a serve spec: the same document that `serve deploy` sends, sent and waited for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from raymill.errors import Conflict, RaymillError, Unavailable
from raymill.serving import GRPC_PROTOCOLS
from raymill.serving.preflight import check, check_placement
from raymill.serving.spec import ServeSpec

APPLICATION = "models"
IMPORT_PATH = "serve_apps.models:app"
WAIT_S = 180.0

FAST_INGRESS = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
}
"""HAProxy in front of the replicas, throughput mode in them; without, nothing is served."""

INGRESS_ENVIRONMENT = {
    **FAST_INGRESS,
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_RETRIES": "2",
}
"""What Serve's ingress is set up by. Read when the controller starts; nodes carry it in their start
environment as well (see `raymill up`, cluster.yaml).

A request whose replica dies before it answers is asked of another, up to two more times: one which kills
its replica kills three at most, and is the end of what all three were asked. HAProxy can do so where
headers and body reached it together, within 16 KiB; of others the client's connection is closed without an
answer. An operator may change how often, and on what: see `ingress_environment`.

HAProxy would log every request to a Python process that counts it, which costs a third of the requests a
second; so replicas count them, under the same names. What HAProxy answers itself, its own exporter counts
(port 9101)."""


def ingress_environment() -> dict[str, str]:
    """Return INGRESS_ENVIRONMENT, with this process's own values of what is not FAST_INGRESS."""
    return {name: os.environ.get(name, value) for name, value in INGRESS_ENVIRONMENT.items()} | FAST_INGRESS


class DeployFailed(RaymillError):
    """Serve could not bring the application up; the message is Serve's own."""


def document(spec: ServeSpec) -> dict[str, Any]:
    """Return the Serve configuration of a spec, the content of a file for `serve deploy`."""
    return {
        "controller_options": {"runtime_env": {"env_vars": ingress_environment()}},
        "proxy_location": "HeadOnly" if spec.shape in ("single", "replicated") else "EveryNode",
        "http_options": {"host": spec.host, "port": spec.port},
        "grpc_options": {"port": spec.grpc_port, "grpc_servicer_functions": _servicer_functions(spec)},
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": spec.model_dump(mode="json", exclude_defaults=True),
            }
        ],
    }


def _servicer_functions(spec: ServeSpec) -> list[str]:
    """Return the functions that register the services of the spec's gRPC protocols; none, no server."""
    return [
        f"raymill.serving.rpc:{function}"
        for name in spec.grpc_protocols
        for function in GRPC_PROTOCOLS.load(name).servicer_functions
    ]


def deploy(
    spec: ServeSpec,
    dashboard: str,
    *,
    wait_s: float = WAIT_S,
    say: Callable[[str], None] = lambda line: print(line, flush=True),
) -> dict[str, Any]:
    """Deploy `spec` through the dashboard at `dashboard`, wait until it serves, and return where.

    Nothing is sent where what is to be served is not whole, or can never be placed.

    Raises:
        NotFound, Corrupt: see `check`.
        DeployFailed: Serve gave up, with its message.
        Unavailable: see `check_placement`, or not up after `wait_s` seconds.
    """
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    check_placement(spec)
    versions = check(spec)
    client = ServeSubmissionClient(dashboard)
    client.deploy_applications(document(spec))
    deadline, last = time.monotonic() + wait_s, ""
    while time.monotonic() < deadline:
        found = client.get_serve_details().get("applications", {}).get(APPLICATION, {})
        status, message = found.get("status", "NOT_STARTED"), found.get("message", "")
        if status != last:
            say(f"application {APPLICATION}: {status}")
            last = status
        if status == "RUNNING":
            _check_http(client.get_serve_details(), spec)
            host = _reachable(spec.host)
            where = {"url": f"http://{host}:{spec.port}"}
            if spec.grpc_protocols:
                where["grpc"] = f"{host}:{spec.grpc_port}"
            return {**where, "models": versions}
        if status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise DeployFailed(f"application {APPLICATION} did not come up: {message}")
        time.sleep(0.5)
    raise Unavailable(
        f"application {APPLICATION} is {last} after {wait_s:.0f} s; "
        f"see the dashboard's Serve page at {dashboard}"
    )


def _check_http(details: dict[str, Any], spec: ServeSpec) -> None:
    """Refuse to name an address at which nothing listens: a running Serve keeps its host and ports.

    Raises:
        Conflict: names the port that is in force.
    """
    ports = [("http_options", "port", spec.port)]
    if spec.grpc_protocols:
        ports.append(("grpc_options", "grpc_port", spec.grpc_port))
    for options, key, wanted in ports:
        port = (details.get(options) or {}).get("port", wanted)
        if port != wanted:
            raise Conflict(
                f"the models are deployed, but Serve already listened on port {port} and cannot change "
                f"`{key}` to {wanted} while it runs; use port {port}, or shut Serve down first "
                "(`serve shutdown`)"
            )


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::", "localhost") else host
