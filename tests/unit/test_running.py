"""What a Serve that runs has settled is not asked for otherwise, and what it says becomes one sentence."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from raymill.errors import Conflict
from raymill.serving import ports
from raymill.serving.deploy import document
from raymill.serving.running import check_settled, reason, reasons
from raymill.serving.spec import ServeSpec


def spec(**settings: Any) -> ServeSpec:
    return ServeSpec.model_validate({"models": {"m": {}}, **settings})


def details(made: ServeSpec) -> dict[str, Any]:
    """Return what the dashboard tells of a Serve that was started with a spec."""
    sent = document(made)
    return {key: sent[key] for key in ("http_options", "grpc_options", "proxy_location")}


def check(wanted: ServeSpec, have: dict[str, Any]) -> None:
    check_settled(wanted, document(wanted), have)


def test_the_same_again_is_accepted_and_anything_where_no_serve_runs():
    check(spec(), details(spec()))
    check(spec(shape="multi_primary"), details(spec()))
    check(spec(grpc_protocols=["oip_grpc"]), details(spec()))
    check(spec(grpc_protocols=[], grpc_port=7), details(spec(grpc_protocols=[])))
    check(spec(host="0.0.0.0", port=1, grpc_port=2), {"proxies": {}, "applications": {}})


@pytest.mark.parametrize(
    ("was", "wanted", "words"),
    [
        (
            {},
            {"host": "0.0.0.0"},
            r"`host` cannot become 0\.0\.0\.0 .*has 127\.0\.0\.1.*`host: 127\.0\.0\.1`",
        ),
        ({}, {"port": 8001}, "`port` cannot become 8001 .* has 8000; nothing was changed. use `port: 8000`"),
        ({}, {"grpc_port": 9001}, "`grpc_port` cannot become 9001 .* has 9000"),
        ({}, {"grpc_protocols": []}, r"`grpc_protocols` cannot become \[\] .*listens for gRPC on port 9000"),
        (
            {"grpc_protocols": []},
            {},
            r"`grpc_protocols` .*listens for no gRPC.*`grpc_protocols: \[\]`",
        ),
        (
            {"grpc_protocols": ["oip_grpc"]},
            {},
            "without raymill.serving.rpc:add_health_service, .*model",
        ),
        (
            {},
            {"shape": "single"},
            "`shape` cannot become single .*every node.*autoscaled or multi_primary",
        ),
        ({"shape": "single"}, {}, "`shape` cannot become autoscaled .*head node alone.*single or replicated"),
    ],
)
def test_what_cannot_change_is_refused_with_what_is_in_force(was, wanted, words):
    with pytest.raises(Conflict, match=words) as caught:
        check(spec(**wanted), details(spec(**was)))
    assert "nothing was changed" in str(caught.value)
    assert "`serve shutdown`" in str(caught.value)


BUILT = """Deploying app 'models' failed with exception:
Traceback (most recent call last):
  File "application_state.py", line 925, in _reconcile_build_app_task
    args, err = ray.get(info.obj_ref)
ray.exceptions.RayTaskError(RuntimeError): \x1b[36mray::build_serve_application()\x1b[39m (pid=1)
RuntimeError: Traceback (most recent call last):
  File "api.py", line 7, in call_user_app_builder_with_args_if_necessary
    args = model.parse_obj(args)
"""
PYDANTIC = "pydantic_core.ValidationError: 1 validation error for ServeSpec\nport\n  too large\n"
START = (
    "The deployment failed to start 3 times in a row. This may be due to a problem with its constructor or "
    "initial health check failing. See controller logs. Error:\n\x1b[36mray::S:init()\x1b[39m (pid=2)\n"
    "  File 'version.py', line 3, in load\nraymill.errors.Corrupt: 'm/1/x.json' is missing: publish it again"
)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("", ""),
        ("has no model: toys", "has no model: toys"),
        (BUILT + "raymill.errors.NotFound: no label 'x'", "no label 'x'"),
        (BUILT + PYDANTIC, PYDANTIC.replace("\n  ", " ").replace("\n", " ").strip()),
        (BUILT + "ModuleNotFoundError: No module named 'x'", "ModuleNotFoundError: No module named 'x'"),
        (START, "'m/1/x.json' is missing: publish it again"),
        (
            '500: {"result": false, "msg": "Traceback:\\n  File\\nValueError: \\"bad\\"", "data": {}}.',
            'ValueError: "bad"',
        ),
        ("500: <html><body><h1>Not <b>there</b></h1></body></html>", "500: Not there"),
    ],
)
def test_of_a_trace_the_last_error_is_told(message, told):
    assert reason(message) == told


def test_the_deployments_that_failed_say_why():
    deployments = {
        "ModelServer": {"status": "DEPLOY_FAILED", "message": START},
        "ModelServer-own": {"status": "HEALTHY", "message": "as before"},
        "ModelServer-new": {"status": "UPDATING", "message": ""},
    }
    message = "Failed to update the deployments ['ModelServer']."
    told = "ModelServer: 'm/1/x.json' is missing: publish it again"
    assert reasons({"message": message, "deployments": deployments}) == told
    assert reasons({"message": message, "deployments": {}}) == message
    assert reasons({"message": BUILT + "ValueError: x"}) == "ValueError: x"
    assert reasons({}) == ""


def test_a_port_that_is_taken_and_a_host_that_is_elsewhere_are_told_apart():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        why = ports.why_not("127.0.0.1", port, patience_s=0)
        assert why is not None
        assert why[0] == errno.EADDRINUSE
        told = ports.refusal("grpc_port", "127.0.0.1", port, *why)
        assert told.startswith(
            f"`grpc_port` {port} cannot be listened on at 127.0.0.1 of the head node: Address"
        )
    assert ports.why_not("127.0.0.1", port) is None
    why = ports.why_not("203.0.113.9", port)
    assert why is not None
    assert "`host` 203.0.113.9 is no address" in ports.refusal("port", "203.0.113.9", port, *why)


def test_a_port_that_is_let_go_within_a_moment_is_free():
    import threading

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        threading.Timer(0.3, taken.close).start()
        assert ports.why_not("127.0.0.1", taken.getsockname()[1]) is None
