"""Serving: one protocol-free plane, wire protocols that only translate, the Ray Serve deployment."""

from typing import TYPE_CHECKING

from raymill.registry import Registry

if TYPE_CHECKING:
    from raymill.serving.http import HttpProtocol
    from raymill.serving.rpc import GrpcProtocol

PROTOCOLS: "Registry[type[HttpProtocol]]" = Registry(
    "wire protocol",
    {
        "tfserving_rest": "raymill.serving.tfserving_rest:TFServingRest",
        "oip_rest": "raymill.serving.oip_rest:OipRest",
        "mms_rest": "raymill.serving.mms_rest:MmsRest",
    },
)

GRPC_PROTOCOLS: "Registry[type[GrpcProtocol]]" = Registry(
    "gRPC wire protocol",
    {
        "tfserving_grpc": "raymill.serving.tfserving_grpc:TFServingGrpc",
        "oip_grpc": "raymill.serving.oip_grpc:OipGrpc",
        "grpc_health": "raymill.serving.grpc_health:GrpcHealth",
    },
)

__all__ = ["GRPC_PROTOCOLS", "PROTOCOLS"]
