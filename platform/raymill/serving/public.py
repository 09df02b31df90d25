"""The gRPC protocols' public messages, as clients know them: for reflection, and for what ours do not read.

Ours have `bytes` where these have lists of numbers, which are the same bytes where a list is packed. These
are in a descriptor pool of their own, beside a client's stubs or TensorFlow's messages in one process.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

DESCRIPTORS = Path(__file__).with_name("proto") / "public.binpb"


@cache
def pool() -> Any:
    """Return the descriptors of all public services, of health and reflection too."""
    found = DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
        found.Add(file)
    for module in (health_pb2, reflection_pb2):
        found.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    return found


def packed(method: Any, request: bytes) -> bytes:
    """Return the bytes of a method's request with its lists of numbers packed, each in one piece.

    Raises:
        DecodeError: they are no such request.
    """
    public = pool().FindServiceByName(method.containing_service.full_name).FindMethodByName(method.name)
    whole = message_factory.GetMessageClass(public.input_type).FromString(request)
    return bytes(whole.SerializeToString())


def reflect(names: list[str], server: Any) -> None:
    """Have a server tell clients the messages of the services of these names."""
    reflection.enable_server_reflection(names, server, pool())
