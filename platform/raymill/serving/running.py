"""What a Serve that runs has settled, and what it says when a deploy fails."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from raymill.errors import Conflict
from raymill.serving.spec import ServeSpec

_ERROR_LINE = re.compile(r"^(?:raymill\.errors\.\w+|((?:\w+\.)*\w*(?:Error|Exception|Timeout))): (?=.)", re.M)
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_MAX_REASON = 1500


def runs(details: Mapping[str, Any]) -> bool:
    """Return whether a Serve runs, by what the dashboard tells of it."""
    return bool(details.get("http_options"))


def check_settled(spec: ServeSpec, sent: Mapping[str, Any], details: Mapping[str, Any]) -> None:
    """Refuse what a Serve that runs cannot change: where it listens, and for what over gRPC.

    Args:
        sent: The document that is to be sent.
        details: What the dashboard tells of Serve.

    Raises:
        Conflict: names the setting, what is in force, and the way out.
    """
    if not runs(details):
        return
    http, rpc = details["http_options"], details.get("grpc_options") or {}
    _same("host", spec.host, http.get("host"))
    _same("port", spec.port, http.get("port"))
    _check_grpc(spec, sent["grpc_options"], rpc)
    place, wanted = details.get("proxy_location"), sent["proxy_location"]
    if place != wanted:
        where = {"HeadOnly": "on the head node alone", "EveryNode": "on every node"}
        shapes = "single or replicated" if place == "HeadOnly" else "autoscaled or multi_primary"
        _refuse("shape", spec.shape, f"listens {where.get(str(place), place)}", f"use shape {shapes}")


def _check_grpc(spec: ServeSpec, sent: Mapping[str, Any], rpc: Mapping[str, Any]) -> None:
    wanted, have = {*sent["grpc_servicer_functions"]}, {*(rpc.get("grpc_servicer_functions") or ())}
    names = list(spec.grpc_protocols)
    if wanted and not have:
        _refuse("grpc_protocols", names, "listens for no gRPC", "use `grpc_protocols: []`")
    if have and not wanted:
        _refuse("grpc_protocols", names, f"listens for gRPC on port {rpc.get('port')}", "name one")
    if lacking := sorted(wanted - have):
        services = ", ".join(lacking)
        _refuse("grpc_protocols", names, f"was started without {services}", "leave out its protocol")
    if wanted:
        _same("grpc_port", spec.grpc_port, rpc.get("port"))


def _same(key: str, wanted: Any, have: Any) -> None:
    if wanted != have:
        _refuse(key, wanted, f"has {have}", f"use `{key}: {have}`")


def _refuse(key: str, wanted: Any, have: str, way_out: str) -> None:
    raise Conflict(
        f"`{key}` cannot become {wanted} while Serve runs: it {have}; nothing was changed. {way_out}, "
        "or shut Serve down first (`serve shutdown`), which ends all that it serves"
    )


def reason(message: str) -> str:
    """Return the last error of a message of Serve's as one line, without the way that it took."""
    text = _ANSI.sub("", _content(message))
    errors = list(_ERROR_LINE.finditer(text))
    if errors:
        last = errors[-1]
        text = text[last.end() if last[1] is None else last.start() :]
    return " ".join(text.split())[:_MAX_REASON]


def _content(message: str) -> str:
    """Return what a message of the dashboard's says within JSON or HTML."""
    if "<html" in message:
        return re.sub(r"<[^>]*>", " ", message)
    try:
        return str(json.loads(message[message.index("{") : message.rindex("}") + 1])["msg"])
    except (ValueError, KeyError, TypeError):
        return message


def reasons(application: Mapping[str, Any]) -> str:
    """Return what Serve says of an application and of those of its deployments that are not well."""
    said = [str(application.get("message") or "")]
    for name, deployment in (application.get("deployments") or {}).items():
        if deployment.get("message") and deployment.get("status") != "HEALTHY":
            said.append(f"{name}: {reason(deployment['message'])}")
    if len(said) > 1:
        return "; ".join(said[1:])  # the application only says which ones
    return reason(said[0])
