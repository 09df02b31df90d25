"""The plane as a Ray Serve application: replicas behind Serve's ingress, autoscaled."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from raymill import cluster
from raymill.errors import Exhausted, RaymillError, Unavailable
from raymill.features import Features
from raymill.repo import Repository
from raymill.serving import GRPC_PROTOCOLS, PROTOCOLS, ingress, rpc
from raymill.serving.deploy import APPLICATION, FAST_INGRESS
from raymill.serving.http import HttpApp
from raymill.serving.logs import write_logs
from raymill.serving.memory import Memory
from raymill.serving.metrics import RequestMetrics
from raymill.serving.model_host import ModelHost
from raymill.serving.plane import Plane
from raymill.serving.preflight import check, check_placement, replicas_by_node
from raymill.serving.ray_metrics import Exporter
from raymill.serving.ray_overrides import ClusterOverrides, override_of
from raymill.serving.served import RemotePredict
from raymill.serving.spec import ModelSpec, ServeSpec

DEPLOYMENT = "ModelServer"
DEMAND = {"metrics_interval_s": 1.0}
"""How often a replica tells of requests that wait for a model's own ones. By Ray's 10 s, a model that had
replicas until lately and has none now comes back so much later."""

log = logging.getLogger(__name__)


class ModelServer:
    """One replica: ready once every model is loaded and its golden rows hold, then follows the labels.

    Args:
        spec: A ServeSpec as JSON.
        own: By model, a handle to the replicas of those with `placement: own`.
        token: Names the deployment, of which this may be a later replica.
    """

    def __init__(self, spec: dict[str, Any], own: dict[str, DeploymentHandle], token: str) -> None:
        self._spec = ServeSpec.model_validate(spec)
        check_ingress()
        write_logs(DEPLOYMENT)
        budget = self._spec.replica.memory_budget_mb
        metrics = RequestMetrics(self._spec.access_log_every)
        overrides = ClusterOverrides(token, _running)
        self._plane = Plane(
            Repository(self._spec.repository),
            self._spec.models,
            overrides=overrides,
            memory=Memory(None if budget is None else int(budget * 1e6)),
            metrics=metrics,
            remote={name: _remote(handle) for name, handle in own.items()},
        )
        self._plane.load()
        overrides.forget_others()  # now, because one that does not come up must leave the one before whole
        self._grpc = {method.full_name: rpc.unserved(method) for method in _rpcs()}
        for name in self._spec.grpc_protocols:
            protocol = GRPC_PROTOCOLS.load(name)(self._plane)
            for method in rpc.methods(type(protocol)):
                self._grpc[method.full_name] = rpc.handler(protocol, self._plane, method)
        self._exporter, self._export_failed = Exporter(metrics), False
        self._follower = asyncio.get_running_loop().create_task(self._follow())

    def __serve_build_asgi_app__(self) -> HttpApp:
        max_bytes = self._spec.replica.max_body_bytes
        ingress.install(self._app(names_requests=True), self._grpc, max_bytes)
        return self._app(names_requests=False)  # there Serve itself puts x-request-id on every answer

    def _app(self, *, names_requests: bool) -> HttpApp:
        protocols = [PROTOCOLS.load(name)(self._plane) for name in self._spec.protocols]
        return HttpApp(
            self._plane,
            protocols,
            self._spec.replica.max_body_bytes,
            self._spec.http,
            observe=self._plane.observe,
            names_requests=names_requests,
        )

    async def check_health(self) -> None:
        """Raise, so that Serve replaces this replica, if it no longer follows the labels."""
        if self._follower.done():
            self._follower.result()
            raise RuntimeError("the task that follows labels has ended")

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._spec.poll_seconds)
            try:
                await asyncio.to_thread(self._plane.refresh)
            except Exception:  # the cluster's store is away: what is loaded is all the more needed
                log.exception("cannot look for what has changed; going on with what is loaded")
            await asyncio.to_thread(self._export)

    def _export(self) -> None:
        """Hand the metrics on; where that fails, once in the log, models are served all the same."""
        try:
            self._exporter.export()
        except Exception:
            if not self._export_failed:
                log.exception("metrics cannot be exported; going on without")
            self._export_failed = True


def _running() -> int:
    """Return how many replicas answer requests now, this one with them."""
    deployment = serve.status().applications[APPLICATION].deployments.get(DEPLOYMENT)
    if deployment is None:  # a build has failed since: Serve runs what there was, and no longer tells of it
        prefix = f"SERVE_REPLICA::{APPLICATION}#{DEPLOYMENT}#"
        actors = ray.util.list_named_actors(all_namespaces=True)
        return max(1, len([actor for actor in actors if actor["name"].startswith(prefix)]))
    return int(deployment.replica_states.get("RUNNING", 1))


def _rpc(method: Any) -> Callable[..., Any]:
    async def answer(self: ModelServer, request: bytes, grpc_context: Any) -> Any:
        return await self._grpc[method.full_name](request, grpc_context)

    answer.__name__ = method.name
    return answer


def _rpcs() -> Iterator[Any]:
    for name in GRPC_PROTOCOLS:
        yield from rpc.methods(GRPC_PROTOCOLS.load(name))


for _method in _rpcs():  # Serve calls the method that an RPC is named for
    setattr(ModelServer, _method.name, _rpc(_method))


def check_ingress() -> None:
    """Refuse to serve on a Serve that was started without the fast ingress, at a tenth of the speed.

    Raises:
        Unavailable: says how to start it with.
    """
    missing = [name for name, value in FAST_INGRESS.items() if os.environ.get(name) != value]
    if missing:
        settings = " ".join(f"{name}={FAST_INGRESS[name]}" for name in missing)
        raise Unavailable(
            f"Serve runs without its fast ingress: {', '.join(missing)} is not set where it was started. "
            f"Start the nodes with `{settings} ray start ...` (`raymill up` and cluster.yaml do), or end "
            "this Serve (`serve shutdown`) and deploy again: its controller gets them from the configuration"
        )


def _remote(handle: DeploymentHandle) -> RemotePredict:
    waking: set[asyncio.Future[None]] = set()

    def wake() -> None:
        """Have a replica come up, if there is none: who gave up took back what would have started it."""
        if not waking:
            task = asyncio.ensure_future(_awake(handle))
            waking.add(task)
            task.add_done_callback(waking.discard)

    async def predict(number: int, features: Features, timeout_s: float | None) -> Any:
        try:
            answer = await handle.predict.remote(number, features.numeric_NF, features.codes_NC, timeout_s)
        except asyncio.CancelledError:
            wake()
            raise
        except BackPressureError as error:
            raise Exhausted("the model's own replicas have as many requests as may wait", 1.0) from error
        if isinstance(answer, RaymillError):
            raise answer
        return answer

    return predict


async def _awake(handle: DeploymentHandle) -> None:
    try:
        await handle.wake.remote()
    except Exception as error:  # full, or it cannot start: whoever asks next is told
        log.warning("a model's own replicas did not come up: %r", error)


def build(spec: ServeSpec) -> Application:
    """Return the Serve application of a spec.

    Raises:
        RayServeException: see `check` and `check_placement`. This is what Serve takes for an answer: of
            anything else it asks three times more, and tells where in the code it came from.
    """
    try:
        check_placement(spec)
        check(spec)
    except RaymillError as error:
        raise RayServeException(str(error)) from error
    token = uuid.uuid4().hex
    own = {
        name: _own(name, model, spec, token)
        for name, model in spec.models.items()
        if model.placement == "own"
    }
    deployment = serve.deployment(
        serve.ingress()(ModelServer),
        name=DEPLOYMENT,
        ray_actor_options={"num_cpus": spec.replica.num_cpus},
        max_ongoing_requests=spec.replica.max_ongoing_requests,
        max_queued_requests=spec.replica.max_queued_requests,
        backpressure_config={"retry_after_s": ingress.RETRY_S},  # of streams; see ingress.py
        logging_config={"enable_access_log": False},
        **_replicas(spec),
    )
    return deployment.bind(spec.model_dump(mode="json"), own, token)


def _own(name: str, model: ModelSpec, spec: ServeSpec, token: str) -> Application:
    deployment = serve.deployment(
        ModelHost,
        name=f"{DEPLOYMENT}-{name}",
        ray_actor_options={"num_cpus": model.own.num_cpus, "num_gpus": model.own.num_gpus},
        autoscaling_config=model.own.autoscaling.model_dump(exclude_none=True) | DEMAND,
        max_ongoing_requests=spec.replica.max_ongoing_requests,
        max_queued_requests=spec.replica.max_queued_requests,
        logging_config={"enable_access_log": False},
    )
    override = partial(override_of, token, name)
    return deployment.bind(spec.repository, name, model.model_dump(mode="json"), spec.poll_seconds, override)


def _replicas(spec: ServeSpec) -> dict[str, Any]:
    """Return how many replicas there are, and where, by the spec's shape."""
    if spec.shape == "autoscaled":
        return {"autoscaling_config": spec.autoscaling.model_dump(exclude_none=True)}
    if spec.shape == "single":
        return {"num_replicas": 1}
    count = replicas_by_node(spec, len(cluster.nodes()))
    return {"num_replicas": count, "max_replicas_per_node": 1}


__all__ = ["APPLICATION", "DEPLOYMENT", "ModelServer", "build"]
