"""Replicas come and go with real load, models live in replicas of their own, and shapes spread over nodes."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import toy
import yaml
from conftest import Cluster, closing_line, free_port

from raymill.repo import Repository
from raymill.serving.deploy import INGRESS_ENVIRONMENT
from raymill.serving.ingress import LATENCIES

QUICK = {"look_back_period_s": 10.5, "upscale_delay_s": 0, "downscale_delay_s": 3}
WAIT_S = 90.0
ROW = {"x": 1.0, "w": "a"}
SCORE = float(
    toy.ToyPredictor(2.0, toy.encoder()).predict(
        toy.encoder().encode_columns({k: [v] for k, v in ROW.items()})
    )[0]
)


@pytest.fixture(scope="module")
def repository(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A repository of `quick` and `slow`, toys of which the second takes a tenth of a second a call."""
    folder, root = tmp_path_factory.mktemp("staged"), cluster.storage / "scaling"
    for model, flavor in (("quick", "toy:ToyFlavor"), ("slow", "toy:SlowFlavor")):
        manifest = toy.manifest(model).model_copy(update={"flavor": flavor})
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


def ask(url: str, model: str) -> int:
    """Return the status of one prediction, sent whole in one packet: then the ingress can send it again."""
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"instances": [ROW]})
    head = f"POST /v1/models/{model}:predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(f"{head}Connection: close\r\n\r\n{body}".encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        content = answer.read()
    assert answer.status != 200 or json.loads(content)["predictions"] == [SCORE]
    return answer.status


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


def answers(url: str) -> bool:
    try:
        return ask(url, "quick") == 200
    except OSError:
        return False


class Clients:
    """Ask one after another, each in a thread of its own, until the block ends."""

    def __init__(self, count: int, url: str, model: str) -> None:
        self.codes: Counter[int | str] = Counter()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(url, model)) for _ in range(count)]

    def _run(self, url: str, model: str) -> None:
        while not self._over.is_set():
            try:
                self.codes[ask(url, model)] += 1
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.codes[repr(error)] += 1

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


def test_under_load_every_request_is_counted_and_latencies_by_sample(
    deploy: Callable[..., str], joined: Cluster
) -> None:
    """Serve's latency histograms take so many a tenth of a second; its counters take all."""
    url = deploy(shape="single", models={"quick": {"serve": ["latest"]}}, poll_seconds=0.5)
    requests, observed = "ray_serve_num_http_requests_total", "ray_serve_http_request_latency_ms_count"
    before = {name: counted(name).total() for name in (requests, observed)}
    started = time.monotonic()
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(lambda _: pipelined(url, "quick", 750), range(4))) == [750] * 4
    tenths = (time.monotonic() - started) / 0.1
    until(lambda: counted(requests).total() - before[requests] == 3000, "not every request is counted", 40)
    latencies = counted(observed).total() - before[observed]
    assert 0 < latencies <= min(2999, LATENCIES * (tenths + 2)), (latencies, tenths)


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


def test_replicas_of_a_shape_are_on_nodes_of_their_own_and_outlive_one(
    deploy: Callable[..., str],
    nodes_of: Callable[[str], list[str]],
    second_node: SecondNode,
) -> None:
    models = {"quick": {"serve": ["latest"]}}
    url = deploy(models=models, shape="multi_primary", replica={"num_cpus": 0.25})
    assert len(set(nodes_of("ModelServer"))) == 2
    until(lambda: answers(second_node.url), "the second node's ingress answers nobody")
    assert {ask(each, "quick") for each in (url, second_node.url) for _ in range(20)} == {200}
    deploy(models=models, shape="single", replica={"num_cpus": 0.25})
    assert len(nodes_of("ModelServer")) == 1
    deploy(models=models, shape="replicated", replica={"num_cpus": 0.25})
    assert len(set(nodes_of("ModelServer"))) == 2
    with Clients(3, url, "quick") as clients:
        time.sleep(1)  # both replicas answer
        second_node.kill()
        until(lambda: len(nodes_of("ModelServer")) == 1, "the dead node's replica counts as running")
        time.sleep(1)
    assert clients.codes.keys() == {200}, clients.codes
