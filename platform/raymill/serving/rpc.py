"""gRPC over the plane: which methods there are, and what becomes of errors. Knows no single protocol.

Services are built from their descriptors, without generated stubs, so that the same methods answer behind
Ray Serve, which wants to be given functions that register them, and on a plain grpc.aio server.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, ClassVar, Protocol

import grpc
from google.protobuf import message_factory
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from raymill.errors import RaymillError
from raymill.serving import GRPC_PROTOCOLS, packed, public
from raymill.serving.plane import Plane
from raymill.serving.proto import oip_repository_service_pb2, oip_service_pb2, tfserving_services_pb2

log = logging.getLogger(__name__)

STATUS = {
    "invalid": grpc.StatusCode.INVALID_ARGUMENT, "not_found": grpc.StatusCode.NOT_FOUND,
    "conflict": grpc.StatusCode.FAILED_PRECONDITION, "exhausted": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "unsupported": grpc.StatusCode.UNIMPLEMENTED, "unavailable": grpc.StatusCode.UNAVAILABLE,
    "deadline": grpc.StatusCode.DEADLINE_EXCEEDED, "internal": grpc.StatusCode.INTERNAL,
}  # fmt: skip
MAX_MESSAGE_BYTES = 64 << 20
MAX_DETAILS_BYTES = 2048


class GrpcProtocol(Protocol):
    """One wire protocol over gRPC: an async method for each of its RPCs, from request to answer message."""

    name: ClassVar[str]
    services: ClassVar[tuple[Any, ...]]
    """Descriptors of its services."""
    servicer_functions: ClassVar[tuple[str, ...]]
    """Names of the functions below that register them."""

    def __init__(self, plane: Plane) -> None: ...

    @staticmethod
    def about(request: Any, answer: Any) -> tuple[str, str]:
        """Return the model that a request names and the version that answered, "" where there is none."""
        ...


def methods(protocol: type[GrpcProtocol]) -> Iterator[Any]:
    """Yield the method descriptors of a protocol's services; of one that streams there is none here."""
    for service in protocol.services:
        yield from _unary(service)


def _unary(service: Any) -> Iterator[Any]:
    return (method for method in service.methods if not method.server_streaming)


Handler = Callable[[bytes, Any], Awaitable[Any]]
"""Answers the bytes of a request with a message, an empty one with code and text in the context on errors."""


def handler(protocol: GrpcProtocol, plane: Plane, method: Any) -> Handler:
    """Return what answers one method of a protocol."""
    parse = message_factory.GetMessageClass(method.input_type).FromString
    empty = message_factory.GetMessageClass(method.output_type)
    answer_of = getattr(protocol, method.name)

    async def handle(request: bytes, context: Any) -> Any:
        started = time.perf_counter()
        code, message, answer = grpc.StatusCode.OK, None, None
        try:
            message = parse(request)
            try:
                answer = await answer_of(message)
            except packed.OneByOne:
                message = parse(public.packed(method, request))
                message.DiscardUnknownFields()
                answer = await answer_of(message)
            return answer
        except asyncio.CancelledError:  # nobody waits for an answer any more
            left_s = context.time_remaining()
            code = STATUS["deadline"] if left_s is not None and left_s <= 0 else grpc.StatusCode.CANCELLED
            raise
        except DecodeError as error:
            code = grpc.StatusCode.INVALID_ARGUMENT
            text = f"the bytes are no {method.input_type.name}: {error}"
        except RaymillError as error:
            code, text = STATUS[error.kind], str(error)
            retry_after_s = getattr(error, "retry_after_s", None)
            if retry_after_s is not None:
                pushback = ("grpc-retry-pushback-ms", str(round(retry_after_s * 1000)))
                context.set_trailing_metadata((pushback,))
        except Exception:
            log.exception("rpc %s failed", method.full_name)
            code, text = grpc.StatusCode.INTERNAL, "internal error; the server's log has it"
        finally:
            model, version = protocol.about(message, answer)
            if not version and not plane.serves(model):
                model = ""  # a client's own text would be a label of our metrics, of any length and number
            plane.observe(protocol.name, model, version, code.name, time.perf_counter() - started)
        context.set_code(code)
        context.set_details(_cut(text))
        return empty()

    return handle


def unserved(method: Any) -> Handler:
    """Return what answers a method of a protocol that the spec does not name.

    A Serve that runs goes on to listen for the services that it was started with.
    """
    empty = message_factory.GetMessageClass(method.output_type)

    async def handle(request: bytes, context: Any) -> Any:
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        context.set_details(f"{method.containing_service.full_name} is not served here; see `grpc_protocols`")
        return empty()

    return handle


def _cut(text: str) -> str:
    """Return as much of an error's text as reaches a client, which takes 8 KiB of headers in all.

    There it is percent-encoded: all but printable ASCII takes three bytes for one.
    """
    left = MAX_DETAILS_BYTES
    for place, character in enumerate(text):
        left -= sum(1 if 32 <= byte < 127 and byte != 37 else 3 for byte in character.encode())
        if left < 0:
            return text[:place]
    return text


def add_service(service: Any, servicer: Any, server: Any) -> None:
    """Register the methods of `servicer`, which take bytes, under the names of a service's descriptor."""
    handlers = {
        method.name: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, method.name),
            response_serializer=message_factory.GetMessageClass(method.output_type).SerializeToString,
        )
        for method in _unary(service)
    }
    generic = grpc.method_handlers_generic_handler(service.full_name, handlers)
    server.add_generic_rpc_handlers((generic,))


def add_prediction_service(servicer: Any, server: Any) -> None:
    """Register TF Serving's PredictionService; what Ray Serve's `grpc_servicer_functions` names."""
    add_service(tfserving_services_pb2.DESCRIPTOR.services_by_name["PredictionService"], servicer, server)


def add_model_service(servicer: Any, server: Any) -> None:
    """Register TF Serving's ModelService."""
    add_service(tfserving_services_pb2.DESCRIPTOR.services_by_name["ModelService"], servicer, server)


def add_inference_service(servicer: Any, server: Any) -> None:
    """Register the Open Inference Protocol's GRPCInferenceService."""
    add_service(oip_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"], servicer, server)


def add_repository_service(servicer: Any, server: Any) -> None:
    """Register MLServer's ModelRepositoryService."""
    services = oip_repository_service_pb2.DESCRIPTOR.services_by_name
    add_service(services["ModelRepositoryService"], servicer, server)


def add_health_service(servicer: Any, server: Any) -> None:
    """Register gRPC's own health service."""
    add_service(health_pb2.DESCRIPTOR.services_by_name["Health"], servicer, server)


class _Servicer:
    """The methods of one protocol as grpc.aio calls them."""

    def __init__(self, protocol: GrpcProtocol, plane: Plane) -> None:
        for method in methods(type(protocol)):
            setattr(self, method.name, handler(protocol, plane, method))


def limits(max_bytes: int) -> list[tuple[str, int]]:
    """Return the options of a server whose messages, unpacked, have `max_bytes` at most."""
    most = min(max_bytes, 2**31 - 1)  # an int of C's
    return [("grpc.max_receive_message_length", most), ("grpc.max_send_message_length", most)]


def server(plane: Plane, address: str, max_bytes: int = MAX_MESSAGE_BYTES) -> tuple[Any, int]:
    """Return a grpc.aio server of all protocols, not yet started, and its port: serving without Ray."""
    made = grpc.aio.server(options=limits(max_bytes))
    names = []
    for name in GRPC_PROTOCOLS:
        protocol = GRPC_PROTOCOLS.load(name)(plane)
        for service in protocol.services:
            add_service(service, _Servicer(protocol, plane), made)
            names.append(service.full_name)
    public.reflect(names, made)
    return made, made.add_insecure_port(address)
