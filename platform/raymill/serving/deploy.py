"""Deploying a serve spec: the same document that `serve deploy` sends, sent and waited for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from raymill.errors import RaymillError, Unavailable
from raymill.serving import GRPC_PROTOCOLS
from raymill.serving.ports import check_ports
from raymill.serving.preflight import check, check_placement
from raymill.serving.running import check_settled, reason, reasons, runs
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
    """Serve could not bring the application up; the message has the reason that it gave."""


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

    Nothing is sent where what is to be served is not whole, can never be placed or never be reached.

    Raises:
        NotFound, Corrupt: see `check`.
        Conflict: see `check_settled`.
        DeployFailed: Serve gave up, with the reason of those deployments that failed.
        Unavailable: see `check_placement` and `check_ports`, or not up after `wait_s` seconds.
    """
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    check_placement(spec)
    versions = check(spec)
    client = ServeSubmissionClient(dashboard)
    _send(client, spec)
    _wait(client, dashboard, wait_s, say)
    host = _reachable(spec.host)
    where = {"url": f"http://{host}:{spec.port}"}
    if spec.grpc_protocols:
        where["grpc"] = f"{host}:{spec.grpc_port}"
    return {**where, "models": versions}


def _send(client: Any, spec: ServeSpec) -> None:
    """Hand the spec to Serve, which runs afterwards if it was accepted, or ran before.

    Raises as `deploy` does.
    """
    wanted, details = document(spec), client.get_serve_details()
    check_settled(spec, wanted, details)
    fresh = not runs(details)
    if fresh:
        check_ports(spec)
    try:
        client.deploy_applications(wanted)
    except (RuntimeError, OSError) as error:  # a page or JSON with a trace, or no connection
        if fresh:  # half started, it would hold the corrected spec to what this one said
            with suppress(RuntimeError, OSError):
                client.delete_applications()
        raise DeployFailed(f"Serve did not take the deployment: {reason(str(error))}") from error


def _wait(client: Any, dashboard: str, wait_s: float, say: Callable[[str], None]) -> None:
    """Return once the application runs. Raises as `deploy` does."""
    deadline, last, found = time.monotonic() + wait_s, "", {}
    while time.monotonic() < deadline:
        found = client.get_serve_details().get("applications", {}).get(APPLICATION, {})
        status = found.get("status", "NOT_STARTED")
        if status != last:
            say(f"application {APPLICATION}: {status}")
            last = status
        if status == "RUNNING":
            return
        if status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise DeployFailed(f"application {APPLICATION} did not come up: {reasons(found)}")
        time.sleep(0.5)
    said = reasons(found)
    raise Unavailable(
        f"application {APPLICATION} is {last} after {wait_s:.0f} s{': ' if said else ''}{said}; "
        f"see the dashboard's Serve page at {dashboard}"
    )


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::", "localhost") else host
