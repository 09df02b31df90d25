"""Replicas come and go with real load, models live in replicas of their own, and shapes spread over nodes."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import toy
import yaml
from conftest import Cluster, closing_line, free_port

from raymill.repo import Repository
from raymill.serving.deploy import INGRESS_ENVIRONMENT
from raymill.serving.ingress import LATENCIES
from raymill.serving.proto import oip_messages_pb2 as oip

QUICK = {"look_back_period_s": 10.5, "upscale_delay_s": 0, "downscale_delay_s": 3}
ALONE = {"max_replicas": 1}
WAIT_S = 90.0
ROW = {"x": 1.0, "w": "a"}
SCORE = float(
    toy.ToyPredictor(2.0, toy.encoder()).predict(
        toy.encoder().encode_columns({k: [v] for k, v in ROW.items()})
    )[0]
)


@pytest.fixture(scope="module")
def repository(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A repository of toys: `quick`, `slow`, a tenth of a second a call, and `deadly`, to its replica."""
    folder, root = tmp_path_factory.mktemp("staged"), cluster.storage / "scaling"
    for model, flavor in (("quick", "Toy"), ("slow", "Slow"), ("deadly", "Deadly")):
        manifest = toy.manifest(model).model_copy(update={"flavor": f"toy:{flavor}Flavor"})
        Repository(str(root)).publish(model, toy.stage(folder / model), manifest, toy.prove)
    return str(root)


@pytest.fixture
def deploy(cluster: Cluster, repository: str, tmp_path: Path) -> Callable[..., str]:
    """Deploys a serve spec by `ray job submit`, and returns the URL."""

    def deploy(**spec: Any) -> str:
        file = tmp_path / "serve.yaml"
        ports = {"port": cluster.serve_port, "grpc_port": cluster.grpc_port}
        file.write_text(yaml.safe_dump({"repository": repository, **ports, **spec}))
        code, output = cluster.submit("jobs/serve.py", "--config", str(file))
        assert code == 0, output
        return str(closing_line(output)["url"])

    return deploy


def ask(url: str, model: str, x: float = ROW["x"]) -> int:
    """Return the status of one prediction, sent whole in one packet: then the ingress can send it again."""
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"instances": [ROW | {"x": x}]})
    head = f"POST /v1/models/{model}:predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(f"{head}Connection: close\r\n\r\n{body}".encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        content = answer.read()
    assert answer.status != 200 or json.loads(content)["predictions"] == [SCORE]
    return answer.status


def call(address: str, model: str, x: float = ROW["x"]) -> int | str:
    """Return 200 for a prediction over gRPC that succeeds, else what the client is told."""
    request = oip.ModelInferRequest(model_name=model)
    for name, datatype in (("x", "FP32"), ("w", "BYTES")):
        request.inputs.add(name=name, datatype=datatype, shape=[1])
    request.raw_input_contents.extend([struct.pack("<f", x), struct.pack("<I", 1) + ROW["w"].encode()])
    with grpc.insecure_channel(address) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        try:
            infer(request.SerializeToString(), timeout=60, metadata=(("application", "models"),))
        except grpc.RpcError as error:
            return str(error)
    return 200


def pipelined(url: str, model: str, count: int) -> int:
    """Return how many of `count` predictions succeed that are sent at once, over one connection."""
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"instances": [ROW]})
    head = f"POST /v1/models/{model}:predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
    request, last = (f"{head}{extra}\r\n{body}".encode() for extra in ("", "Connection: close\r\n"))
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        sender = threading.Thread(target=connection.sendall, args=(request * (count - 1) + last,))
        sender.start()
        with connection.makefile("rb") as answers:
            content = answers.read()
        sender.join()
    return content.count(b"HTTP/1.1 200 ")


def answer_of(ask: Callable[[], int | str]) -> int | str:
    """Return the status, or what went wrong with the connection."""
    try:
        return ask()
    except (OSError, http.client.HTTPException, AssertionError) as error:
        return repr(error)


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Clients:
    """Ask one after another, each in a thread of its own, until the block ends."""

    def __init__(
        self, count: int, address: str, model: str, ask: Callable[[str, str], int | str] = ask
    ) -> None:
        self.codes: Counter[int | str] = Counter()
        self._over, self._ask = threading.Event(), partial(ask, address, model)
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]

    def _run(self) -> None:
        while not self._over.is_set():
            self.codes[answer_of(self._ask)] += 1

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def details(joined: Cluster) -> Callable[[], dict[str, Any]]:
    """Returns what the dashboard knows of Serve."""
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    return ServeSubmissionClient(joined.dashboard).get_serve_details


@pytest.fixture
def nodes_of(details: Callable[[], dict[str, Any]]) -> Callable[[str], list[str]]:
    """Returns the nodes of a deployment's running replicas."""

    def nodes_of(deployment: str) -> list[str]:
        replicas = details()["applications"]["models"]["deployments"][deployment]["replicas"]
        return [replica["node_id"] for replica in replicas if replica["state"] == "RUNNING"]

    return nodes_of


def until(what: Callable[[], bool], message: str, wait_s: float = WAIT_S) -> float:
    """Return the seconds until `what` held."""
    started = time.monotonic()
    while not what():
        assert time.monotonic() - started < wait_s, f"{message}: not within {wait_s:g} s"
        time.sleep(0.2)
    return time.monotonic() - started


def test_replicas_follow_the_load_and_nobody_is_refused(
    deploy: Callable[..., str], nodes_of: Callable[[str], list[str]]
) -> None:
    scaling = QUICK | {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 2}
    url = deploy(
        models={"slow": {"serve": ["latest"], "batching": {"max_rows": 1}}},
        autoscaling=scaling, replica={"num_cpus": 0.25},
    )  # fmt: skip
    assert len(nodes_of("ModelServer")) == 1
    with Clients(1, url, "slow") as patient:
        with Clients(11, url, "slow") as crowd:
            until(lambda: len(nodes_of("ModelServer")) == 2, "no second replica under load")
            both = Counter(crowd.codes)
            time.sleep(2)  # both answer now
        assert crowd.codes[200] - both[200] > 1.5 * 10 * 2, "two replicas answer no more than one does"
        until(lambda: len(nodes_of("ModelServer")) == 1, "the second replica stays without load")
    assert crowd.codes.keys() | patient.codes.keys() == {200}, (crowd.codes, patient.codes)


def test_a_model_on_its_own_comes_back_from_no_replica(
    deploy: Callable[..., str], nodes_of: Callable[[str], list[str]]
) -> None:
    scaling = QUICK | {"min_replicas": 0, "max_replicas": 1, "downscale_to_zero_delay_s": 1}
    url = deploy(
        models={
            "quick": {"serve": ["latest"]},
            "slow": {
                "serve": ["latest"],
                "placement": "own",
                "own": {"num_cpus": 0.25, "autoscaling": scaling},
            },
        }
    )
    until(lambda: not nodes_of("ModelServer-slow"), "the idle replica stays")
    assert ask(url, "quick") == 200
    assert not nodes_of("ModelServer-slow"), "another model's request woke it"
    assert ask(url, "slow") == 200
    assert len(nodes_of("ModelServer-slow")) == 1
    until(lambda: not nodes_of("ModelServer-slow"), "the replica stays once it is idle again")
    hurried = urllib.request.Request(
        f"{url}/v1/models/slow:predict",
        json.dumps({"instances": [ROW]}).encode(),
        {"X-Request-Timeout-Seconds": "0.3"},
    )
    with pytest.raises(urllib.error.HTTPError) as late:
        urllib.request.urlopen(hurried, timeout=30)
    late.value.close()
    assert late.value.code == 504
    until(lambda: bool(nodes_of("ModelServer-slow")), "one who could not wait woke nobody", 10)


def counted(name: str) -> Counter[tuple[str, ...]]:
    """Return a metric of Serve's, as this cluster's nodes export it, by its series."""
    import ray
    from prometheus_client.parser import text_string_to_metric_families

    found: Counter[tuple[str, ...]] = Counter()
    for node in ray.nodes():
        if node["Alive"]:
            address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            with urllib.request.urlopen(address, timeout=10) as answer:
                text = answer.read().decode()
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if sample.name == name:
                        key = tuple(f"{k}={v}" for k, v in sorted(sample.labels.items()))
                        found[key] += int(sample.value)
    return found


def test_every_request_is_counted_by_its_code(deploy: Callable[..., str], joined: Cluster) -> None:
    """Serve's own counters, which its Grafana dashboards draw, and ours by model."""
    url = deploy(models={"quick": {"serve": ["latest"]}}, poll_seconds=0.5)
    metrics = ("ray_serve_num_http_requests_total", "ray_raymill_request_seconds_count")
    before = {name: counted(name) for name in metrics}
    assert [ask(url, "quick") for _ in range(300)] == [200] * 300
    assert [ask(url, "absent") for _ in range(3)] == [404] * 3

    def all_there() -> bool:
        rise = {name: counted(name) - before[name] for name in metrics}

        def of(name: str, *labels: str) -> int:
            return sum(count for key, count in rise[name].items() if {*labels} <= {*key})

        serves, ours = metrics
        told = of(serves, "method=POST", "status_code=200"), of(serves, "method=POST", "status_code=404")
        own = of(ours, "model=quick", "code=200", "protocol=tfserving_rest"), of(ours, "code=404")
        return (told, own) == ((300, 3), (300, 3))

    until(all_there, "not every request is counted", 40)


def test_a_full_replica_says_so_as_the_protocol_does_and_everything_is_in_the_logs(
    deploy: Callable[..., str], cluster: Cluster
) -> None:
    limits = {"max_ongoing_requests": 1, "max_queued_requests": 1}
    url = deploy(
        autoscaling=ALONE, models={"slow": {"serve": ["latest"]}}, replica=limits, access_log_every=1
    )
    host, port = url.removeprefix("http://").split(":")

    def over_http(_: int) -> tuple[int, str | None, str]:
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        connection.request("POST", "/v1/models/slow:predict", json.dumps({"instances": [ROW]}))
        answer = connection.getresponse()
        found = answer.status, answer.getheader("retry-after"), next(iter(json.loads(answer.read())))
        connection.close()
        return found

    def over_grpc(_: int) -> tuple[str, str | None]:
        with grpc.insecure_channel(f"127.0.0.1:{cluster.grpc_port}") as channel:
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelReady")
            message = oip.ModelReadyRequest(name="slow").SerializeToString()
            try:
                infer(message, timeout=60, metadata=(("application", "models"),))
            except grpc.RpcError as error:
                return error.code().name, dict(error.trailing_metadata()).get("grpc-retry-pushback-ms")
            return "OK", None

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(over_http, range(24)))
        assert set(told) == {(200, None, "predictions"), (503, "1", "error")}
        busy = pool.submit(lambda: [over_http(0) for _ in range(10)])
        rpcs = set(pool.map(over_grpc, range(40)))
        busy.result()
    assert rpcs <= {("OK", None), ("RESOURCE_EXHAUSTED", "1000")}
    assert ("RESOURCE_EXHAUSTED", "1000") in rpcs
    temp_dir = json.loads((cluster.home / "cluster.json").read_text())["temp_dir"]
    files = Path(temp_dir).glob("session_latest/logs/serve/access_ModelServer_*.log")
    logs = max(files, key=lambda file: file.stat().st_mtime)
    lines = [json.loads(line) for line in logs.read_text().splitlines()]
    codes = [line["code"] for line in lines if line["protocol"] == "tfserving_rest"]
    assert codes[:24].count("503") == sum(status == 503 for status, *_ in told)
    others = logs.with_name(logs.name.replace("access", "raymill")).read_text()
    assert "model slow: serving versions [1]" in others


def test_under_load_every_request_is_counted_and_latencies_by_sample(
    deploy: Callable[..., str], joined: Cluster
) -> None:
    """Serve's latency histograms take so many a tenth of a second; its counters take all."""
    url = deploy(autoscaling=ALONE, models={"quick": {"serve": ["latest"]}}, poll_seconds=0.5)
    names = ("ray_serve_num_http_requests_total", "ray_serve_http_request_latency_ms_count")
    before = {name: counted(name) for name in names}
    started = time.monotonic()
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(lambda _: pipelined(url, "quick", 750), range(4))) == [750] * 4
    tenths = (time.monotonic() - started) / 0.1

    def rise(name: str) -> int:
        return sum(n for key, n in (counted(name) - before[name]).items() if "method=POST" in key)

    requests, latencies = names
    until(lambda: rise(requests) == 3000, "not every request is counted", 40)
    assert 0 < rise(latencies) <= min(2999, LATENCIES * (tenths + 2)), (rise(latencies), tenths)


def test_a_change_is_answered_once_every_replica_has_followed(deploy: Callable[..., str]) -> None:
    """Requests after an unload or a load, over other connections, meet no replica that knows nothing."""
    url = deploy(
        models={"quick": {"serve": ["latest"]}}, autoscaling={"min_replicas": 3, "max_replicas": 3},
        replica={"num_cpus": 0.2},
    )  # fmt: skip
    assert {ask(url, "quick") for _ in range(30)} == {200}

    def change(what: str) -> int:
        request = urllib.request.Request(f"{url}/v2/repository/models/quick/{what}", b"{}")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)

    for what, status in (("unload", 404), ("load", 200), ("unload", 404), ("load", 200)):
        assert change(what) == 200
        assert {ask(url, "quick") for _ in range(30)} == {status}
    with ThreadPoolExecutor() as pool:  # some undo others before every replica has seen them
        assert set(pool.map(change, ["unload", "load"] * 3)) == {200}


def test_a_request_that_kills_its_replicas_costs_three_at_most(
    deploy: Callable[..., str], cluster: Cluster, details: Callable[[], dict[str, Any]]
) -> None:
    """The ingress asks another replica twice, over both protocols, and then gives up.

    A request that is by chance where the deadly one is three times is lost with it.
    """
    url = deploy(
        models={"deadly": {"serve": ["latest"]}},
        autoscaling={"min_replicas": 4, "max_replicas": 4}, replica={"num_cpus": 0.2},
    )  # fmt: skip
    grpc_address = f"127.0.0.1:{cluster.grpc_port}"

    def running() -> set[int]:
        replicas = details()["applications"]["models"]["deployments"]["ModelServer"]["replicas"]
        return {one["pid"] for one in replicas if one["state"] == "RUNNING" and alive(one["pid"])}

    with Clients(3, url, "deadly") as clients, Clients(3, grpc_address, "deadly", call) as callers:
        for deadly in (partial(ask, url), partial(call, grpc_address)):
            before = running()
            assert answer_of(partial(deadly, "deadly", 666.0)) != 200
            assert 1 <= sum(not alive(pid) for pid in before) <= 3
            until(lambda: len(running()) == 4, "not four replicas again")
    assert clients.codes[200] > 100 < callers.codes[200]


@dataclass(frozen=True)
class SecondNode:
    """A second raylet on this machine, whose ingress has a port of its own."""

    url: str
    kill: Callable[[], None]


@pytest.fixture
def second_node(cluster: Cluster, tmp_path: Path) -> Iterator[SecondNode]:
    line = [
        str(Path(sys.executable).with_name("ray")), "start", "--block", f"--address={cluster.ray_address}",
        "--num-cpus=2", "--disable-usage-stats", f"--dashboard-agent-listen-port={free_port()}",
    ]  # fmt: skip
    port, log, proxy = free_port(), tmp_path / "node.log", tmp_path / "haproxy"
    environment = cluster.environment | INGRESS_ENVIRONMENT | {
        "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(port),
        "RAY_SERVE_WORKER_PROXY_GRPC_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{proxy}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{proxy}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(proxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{proxy}/server-state",
    }  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(line, env=environment, stdout=output, stderr=output)

    def kill() -> None:
        if process.poll() is None:
            for child in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                child.kill()
            process.wait()

    try:
        until(lambda: "Ray runtime started" in log.read_text(), log.read_text(), 60)
        yield SecondNode(f"http://127.0.0.1:{port}", kill)
    finally:
        kill()


@pytest.fixture
def end_serve(cluster: Cluster) -> Iterator[Callable[[], None]]:
    """Returns what shuts Serve down, and does so in the end: other tests want ports on every node."""
    yield cluster.end_serve
    cluster.end_serve()


def test_replicas_of_a_shape_are_on_nodes_of_their_own_and_outlive_one(
    deploy: Callable[..., str],
    cluster: Cluster,
    nodes_of: Callable[[str], list[str]],
    second_node: SecondNode,
    end_serve: Callable[[], None],
) -> None:
    models = {"quick": {"serve": ["latest"]}}
    url = deploy(models=models, shape="multi_primary", replica={"num_cpus": 0.25})
    assert len(set(nodes_of("ModelServer"))) == 2
    until(
        lambda: answer_of(partial(ask, second_node.url, "quick")) == 200,
        "the second node's ingress answers nobody",
    )
    assert {ask(each, "quick") for each in (url, second_node.url) for _ in range(20)} == {200}
    end_serve()
    deploy(models=models, shape="single", replica={"num_cpus": 0.25})
    assert len(nodes_of("ModelServer")) == 1
    deploy(models=models, shape="replicated", replica={"num_cpus": 0.25})
    assert len(set(nodes_of("ModelServer"))) == 2
    grpc_address = f"127.0.0.1:{cluster.grpc_port}"
    with Clients(3, url, "quick") as clients, Clients(3, grpc_address, "quick", call) as callers:
        time.sleep(1)  # both replicas answer
        second_node.kill()
        until(lambda: len(nodes_of("ModelServer")) == 1, "the dead node's replica counts as running")
        time.sleep(1)
    assert clients.codes.keys() == callers.codes.keys() == {200}, (clients.codes, callers.codes)
