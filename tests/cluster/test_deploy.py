"""A deploy that cannot work is refused in one line, and what is served goes on with the replicas it has."""

from __future__ import annotations

import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import toy
import yaml
from conftest import Cluster, closing_line, free_port

from raymill.errors import Conflict, Unavailable
from raymill.repo import Repository
from raymill.serving.deploy import DeployFailed, document
from raymill.serving.deploy import deploy as send
from raymill.serving.running import runs
from raymill.serving.spec import ServeSpec

WAIT_S = 60.0
Deploy = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def repository(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A repository whose model `toy` has a whole version 1 and a version 2 that is cut short."""
    root, folder = str(cluster.storage / "deploying"), tmp_path_factory.mktemp("staged")
    for number in ("1", "2"):
        last = toy.publish(Repository(root), folder / number).location / "model.json"
    last.write_bytes(last.read_bytes()[:-1])
    return root


@pytest.fixture
def spec(cluster: Cluster, repository: str) -> Callable[..., dict[str, Any]]:
    def spec(**settings: Any) -> dict[str, Any]:
        served = {"models": {"toy": {"serve": [1]}}, "replica": {"num_cpus": 0.25}}
        ports = {"port": cluster.serve_port, "grpc_port": cluster.grpc_port}
        return {"repository": repository, **ports, **served, **settings}

    return spec


@pytest.fixture
def deploy(cluster: Cluster, tmp_path: Path, spec: Callable[..., dict[str, Any]]) -> Deploy:
    """Deploys by `ray job submit`, and returns its exit status and what it printed."""

    def deploy(**settings: Any) -> tuple[int, str]:
        file = tmp_path / "serve.yaml"
        file.write_text(yaml.safe_dump(spec(**settings)))
        return cluster.submit("jobs/serve.py", "--config", str(file))

    return deploy


@pytest.fixture
def client(joined: Cluster) -> Any:
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    return ServeSubmissionClient(joined.dashboard)


def replicas() -> set[str]:
    """Return the names of the application's replicas; after a failed build Serve does not tell of them."""
    import ray

    names = (actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True))
    return {name for name in names if name.startswith("SERVE_REPLICA::models#")}


def asked(url: str, path: str, body: bytes | None = None) -> int:
    with urllib.request.urlopen(f"{url}/v2/{path}", body, timeout=10) as answer:
        return int(answer.status)


def test_what_cannot_be_served_changes_nothing(
    deploy: Deploy, spec: Callable[..., dict[str, Any]], client: Any
) -> None:
    code, output = deploy()
    assert code == 0, output
    url, before = str(closing_line(output)["url"]), replicas()
    own = {"placement": "own", "serve": [1], "own": {"num_gpus": 1}}
    refused = {
        "version 2 (`serve: [2]`)": {"models": {"toy": {"serve": [2]}}},
        "has no model 'toys'": {"models": {"toys": {}}},
        "`models.toy.own.num_gpus` asks for 1 GPU": {"models": {"toy": own}},
        "`replica.num_cpus` asks for 99 CPU": {"replica": {"num_cpus": 99}},
    }
    code, output = deploy(**next(iter(refused.values())))
    assert code != 0
    assert "model.json" in output
    assert "Traceback" not in output
    for words, settings in refused.items():  # and past the job, as `serve deploy` goes
        client.deploy_applications(document(ServeSpec.model_validate(spec(**settings))))
        message, deadline = "", time.monotonic() + WAIT_S
        while words not in message and time.monotonic() < deadline:
            message = client.get_serve_details()["applications"]["models"]["message"]
            time.sleep(0.2)
        assert words in message
        assert "Traceback" not in message
        assert asked(url, "models/toy/versions/1/ready") == 200
        assert asked(url, "repository/models/toy/load", b"{}") == 200
        assert replicas() == before


def test_where_serve_cannot_listen_none_is_left_and_where_it_does_stays(
    cluster: Cluster, joined: Cluster, deploy: Deploy, spec: Callable[..., dict[str, Any]], client: Any
) -> None:
    def directly(**settings: Any) -> str:
        return str(send(ServeSpec.model_validate(spec(**settings)), joined.dashboard)["url"])

    cluster.end_serve()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", cluster.grpc_port))
        taken.listen()
        code, output = deploy()
        assert code != 0
        assert f"error: `grpc_port` {cluster.grpc_port} cannot be listened on at 127.0.0.1" in output
        assert "Traceback" not in output
    with pytest.raises(Unavailable, match=r"`host` 203\.0\.113\.9 is no address of the head node"):
        directly(host="203.0.113.9")
    assert not runs(client.get_serve_details())
    url = directly()

    def deployed() -> tuple[set[str], float]:
        return replicas(), client.get_serve_details()["applications"]["models"]["last_deployed_time_s"]

    before = deployed()
    for key, other in (
        ("host", "0.0.0.0"), ("port", free_port()), ("grpc_port", free_port()), ("grpc_protocols", []),
        ("shape", "single"),
    ):  # fmt: skip
        with pytest.raises(Conflict, match=rf"`{key}` cannot become .* while Serve runs"):
            directly(**{key: other})
    assert (
        replicas(),
        client.get_serve_details()["applications"]["models"]["last_deployed_time_s"],
    ) == before
    directly(grpc_protocols=["grpc_health"])
    with grpc.insecure_channel(f"127.0.0.1:{cluster.grpc_port}") as channel:
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        with pytest.raises(grpc.RpcError) as caught:
            live(b"", timeout=10, metadata=(("application", "models"),))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"", timeout=10, metadata=(("application", "models"),)) == b"\x08\x01"
    assert asked(url, "models/toy/versions/1/ready") == 200


def test_why_a_replica_does_not_start_is_told(joined: Cluster, spec: Callable[..., dict[str, Any]]) -> None:
    """A flavor that is not installed here: the files are whole, and only a replica finds out."""
    made = ServeSpec.model_validate(spec(models={"alien": {"serve": [1]}}))
    manifest = toy.manifest("alien").model_copy(update={"flavor": "nowhere:AlienFlavor"})
    folder = joined.storage / "alien"
    Repository(made.repository).publish("alien", toy.stage(folder), manifest, toy.prove)
    with pytest.raises(DeployFailed, match=r"ModelServer: .*nowhere") as caught:
        send(made, joined.dashboard)
    assert "\n" not in str(caught.value)
    assert "File " not in str(caught.value)
