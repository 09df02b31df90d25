"""Joining a Ray cluster from a job, and asking what it can ever give."""

from __future__ import annotations

import math
import os
from pathlib import Path

from raymill.errors import Unavailable

PACKAGE = Path(__file__).parent


def connect() -> None:
    """Join the cluster of this job, or that of $RAY_ADDRESS, or start a Ray of this process's own.

    Ships this very package to the workers, so that they run the code that was submitted and not
    the one that happens to be installed on a node.
    """
    import ray

    address = os.environ.get("RAY_ADDRESS", "")
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    if address.startswith(("http://", "https://")) and not in_job:
        raise Unavailable(
            f"RAY_ADDRESS={address} is the address for submitting; run this as `ray job submit "
            "--working-dir . -- python jobs/...`, or unset RAY_ADDRESS to run on this machine alone"
        )
    ray.init(
        address=None if in_job or address else "local",
        runtime_env={"py_modules": [str(PACKAGE)]},
        log_to_driver=True,
        ignore_reinit_error=True,
    )


def ceiling() -> dict[str, float]:
    """Return the most the cluster can ever have of each resource: its autoscaling maximum, or what it has."""
    import ray
    from ray._private.state import state

    now = {name: float(amount) for name, amount in ray.cluster_resources().items()}
    most = state.get_max_resources_from_cluster_config() or {}
    return {name: max(now.get(name, 0.0), float(most.get(name, 0.0))) for name in {*now, *most}}


def nodes() -> list[dict[str, float]]:
    """Return the resources of each node that is alive, used or not."""
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def may_grow() -> bool:
    """Return whether an autoscaler may add nodes."""
    from ray._private.state import state

    return bool(state.get_max_resources_from_cluster_config())


def room(per_worker: dict[str, float], nodes: list[dict[str, float]]) -> int:
    """Return how many workers the nodes hold, were nothing else running; each lies on one node."""
    return sum(
        min(math.floor(node.get(name, 0.0) / each) for name, each in per_worker.items()) for node in nodes
    )


def check_capacity(workers: int, per_worker: dict[str, float], have: dict[str, float]) -> None:
    """Refuse a worker group that can never be placed.

    Raises:
        Unavailable: names the resource, what is asked for, what there can be, and what would fit.
    """
    for resource, each in per_worker.items():
        asked, most = workers * each, have.get(resource, 0.0)
        if asked > most:
            fits = math.floor(most / each)
            way_out = f"use workers={fits}" if fits else f"ask for no {resource}"
            raise Unavailable(
                f"{workers} workers with {each:g} {resource} each need {asked:g} {resource}, and this "
                f"cluster can have {most:g} at most; {way_out}, or raise the cluster's limits"
            )


def check_room(workers: int, per_worker: dict[str, float], nodes: list[dict[str, float]]) -> None:
    """Refuse workers that the cluster has the resources for, but no nodes that hold them all.

    Raises:
        Unavailable: names the worker, how many would fit, and the way out.
    """
    fits = room(per_worker, nodes)
    if fits < workers:
        worker = " and ".join(f"{each:g} {resource}" for resource, each in per_worker.items())
        way_out = f"use workers={fits}, or smaller workers" if fits else "use smaller workers"
        raise Unavailable(
            f"{workers} workers with {worker} each do not fit: a worker lies on one node, and the nodes of "
            f"this cluster hold {fits}; {way_out}, or larger nodes"
        )


def this_job() -> dict[str, str]:
    """Return what names this process's Ray job among all clusters: the session and the job's number."""
    import ray

    node = ray._private.worker.global_worker.node
    return {"session": str(node.session_name), "job": ray.get_runtime_context().get_job_id()}


def is_running(session: str, job: str) -> bool:
    """Return whether the job lives; one of another cluster is taken to be over with its cluster."""
    from ray._private.state import state

    if session != this_job()["session"]:
        return False
    return any(entry["JobID"] == job and not entry["IsDead"] for entry in state.job_table())


def dashboard_url() -> str:
    """Return the dashboard's address as the cluster knows it.

    Raises:
        Unavailable: the cluster runs without a dashboard, through which Serve and jobs are reached.
    """
    import ray

    url = ray._private.worker.global_worker.node.address_info.get("webui_url")
    if not url:
        raise Unavailable("this cluster has no dashboard; start it with one, as `raymill up` does")
    return f"http://{url}"
