"""Whether a Serve that is yet to start can listen where a spec says: tried on the head node, by binding."""

from __future__ import annotations

import errno
import socket
import time

from raymill.errors import Unavailable
from raymill.serving.spec import ServeSpec

PATIENCE_S = 5.0
"""How long a port may be taken by the ingress of a Serve that was shut down just now."""


def check_ports(spec: ServeSpec) -> None:
    """Refuse a host or port that the head node cannot listen on; Serve would start, and never be reached.

    Raises:
        Unavailable: names the setting, the system's reason and the way out.
    """
    import ray
    from ray._common.constants import HEAD_NODE_RESOURCE_NAME

    ports = {"port": spec.port} | ({"grpc_port": spec.grpc_port} if spec.grpc_protocols else {})
    on_head = ray.remote(num_cpus=0, resources={HEAD_NODE_RESOURCE_NAME: 0.001})(why_not)
    for key, port in ports.items():
        if why := ray.get(on_head.remote(spec.host, port)):
            raise Unavailable(refusal(key, spec.host, port, *why))


def why_not(host: str, port: int, patience_s: float = PATIENCE_S) -> tuple[int, str] | None:
    """Return why this machine cannot listen there, as a number of `errno` and text; None where it can."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past connections do not count
                probe.bind(address)
                probe.listen(1)
            return None
        except socket.gaierror as error:
            return errno.EADDRNOTAVAIL, error.strerror or str(error)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                return error.errno or 0, error.strerror or str(error)
        time.sleep(0.2)


def refusal(key: str, host: str, port: int, number: int, text: str) -> str:
    """Return what to tell of an address that cannot be listened on."""
    if number == errno.EADDRNOTAVAIL:
        return (
            f"`host` {host} is no address of the head node, and Serve would listen there ({text}); "
            "use 127.0.0.1, 0.0.0.0 or an address that it has"
        )
    return (
        f"`{key}` {port} cannot be listened on at {host} of the head node: {text}; nothing was deployed. "
        "Use another port, or end what has this one"
    )
