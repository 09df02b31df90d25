"""The plane as a Ray Serve application: replicas behind Serve's ingress, autoscaled."""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve
from ray.serve import Application

from raymill.repo import Repository
from raymill.serving import PROTOCOLS
from raymill.serving.http import HttpApp
from raymill.serving.plane import Plane
from raymill.serving.spec import ServeSpec

APPLICATION = "models"
DEPLOYMENT = "ModelServer"


class ModelServer:
    """One replica: ready once every model is loaded and its golden rows hold, then follows the labels."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = ServeSpec.model_validate(spec)
        self._plane = Plane(Repository(self._spec.repository), self._spec.models)
        self._plane.load()
        self._follower = asyncio.get_running_loop().create_task(self._follow())

    def __serve_build_asgi_app__(self) -> HttpApp:
        protocols = [PROTOCOLS.load(name)(self._plane) for name in self._spec.protocols]
        return HttpApp(  # Serve itself puts x-request-id on every answer
            self._plane, protocols, self._spec.replica.max_body_bytes, self._spec.http, names_requests=False
        )

    async def check_health(self) -> None:
        """Raise, so that Serve replaces this replica, if it no longer follows the labels."""
        if self._follower.done():
            self._follower.result()
            raise RuntimeError("the task that follows labels has ended")

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._spec.poll_seconds)
            await asyncio.to_thread(self._plane.refresh)


def build(spec: ServeSpec) -> Application:
    """Return the Serve application of a spec."""
    deployment = serve.deployment(
        serve.ingress()(ModelServer),
        name=DEPLOYMENT,
        ray_actor_options={"num_cpus": spec.replica.num_cpus},
        autoscaling_config=spec.autoscaling.model_dump(),
        max_ongoing_requests=spec.replica.max_ongoing_requests,
        max_queued_requests=spec.replica.max_queued_requests,
        logging_config={"enable_access_log": False},
    )
    return deployment.bind(spec.model_dump(mode="json"))
