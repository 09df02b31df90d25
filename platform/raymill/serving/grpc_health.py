"""gRPC's own health protocol, `grpc.health.v1.Health`, for Kubernetes' probes, load balancers and clients.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md. `Watch` is not implemented, which that
text lets clients take for healthy: its streams would be bound to one replica behind the ingress.
"""

from __future__ import annotations

from typing import Any, ClassVar

from grpc_health.v1 import health_pb2 as pb

from raymill.errors import NotFound
from raymill.serving import GRPC_PROTOCOLS
from raymill.serving.plane import Plane

_SERVING = pb.HealthCheckResponse.SERVING
_NOT_SERVING = pb.HealthCheckResponse.NOT_SERVING


class GrpcHealth:
    """The health of the server, under "" and its services' names, and of each model under its own."""

    name: ClassVar[str] = "grpc_health"
    services: ClassVar[tuple[Any, ...]] = tuple(pb.DESCRIPTOR.services_by_name.values())
    servicer_functions: ClassVar[tuple[str, ...]] = ("add_health_service",)

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        protocols = [GRPC_PROTOCOLS.load(name) for name in GRPC_PROTOCOLS]
        self._names = {"", *(service.full_name for protocol in protocols for service in protocol.services)}

    @staticmethod
    def about(request: Any, answer: Any) -> tuple[str, str]:
        return "", ""

    async def Check(self, request: Any) -> Any:
        return self._health(request.service)

    async def List(self, request: Any) -> Any:
        found = {name: self._health(name) for name in self._names}
        for entry in self._plane.index():  # one look at all models, which may change meanwhile
            if entry.state == "READY" or entry.name not in found:
                found[entry.name] = _said(entry.state == "READY")
        return pb.HealthListResponse(statuses=found)

    def _health(self, name: str) -> Any:
        if name in self._names:
            healthy = self._plane.ready()
        elif name in self._plane.models():
            healthy = self._plane.model_ready(name)
        else:
            raise NotFound(f"no service or model {name!r}; have: {', '.join(sorted(self._plane.served()))}")
        return _said(healthy)


def _said(healthy: bool) -> Any:
    return pb.HealthCheckResponse(status=_SERVING if healthy else _NOT_SERVING)
