"""gRPC on the cluster: hostile calls get their status and the replica goes on; reflection tells all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import toy
import yaml
from conftest import Cluster
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from raymill.repo import Repository
from raymill.serving.proto import oip_messages_pb2 as oip

SERVICE = "/inference.GRPCInferenceService/"
LIMIT = 1 << 20


@pytest.fixture(scope="module")
def channel(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    """One replica that serves `quick`, looks at the labels twice a second and takes messages up to LIMIT."""
    folder = tmp_path_factory.mktemp("bad-calls")
    toy.publish(Repository(str(cluster.storage / "bad-calls")), folder / "1", "quick")
    spec = {
        "repository": str(cluster.storage / "bad-calls"), "models": {"quick": {"serve": ["latest"]}},
        "autoscaling": {"max_replicas": 1}, "poll_seconds": 0.5,
        "replica": {"max_body_bytes": LIMIT, "num_cpus": 0.25},
        "port": cluster.serve_port, "grpc_port": cluster.grpc_port,
    }  # fmt: skip
    (folder / "serve.yaml").write_text(yaml.safe_dump(spec))
    code, output = cluster.submit("jobs/serve.py", "--config", str(folder / "serve.yaml"))
    assert code == 0, output
    with grpc.insecure_channel(f"127.0.0.1:{cluster.grpc_port}") as opened:
        yield opened


def versions(channel: grpc.Channel, model: str) -> list[str]:
    ask = channel.unary_unary(
        f"{SERVICE}ModelMetadata", response_deserializer=oip.ModelMetadataResponse.FromString
    )
    request = oip.ModelMetadataRequest(name=model).SerializeToString()
    return list(ask(request, timeout=30, wait_for_ready=True).versions)


def test_a_name_that_no_metric_takes_leaves_the_replica_following(
    channel: grpc.Channel, cluster: Cluster, tmp_path: Path
) -> None:
    assert versions(channel, "quick") == ["1"]
    for name in ("modèle", "m" * 500_000):
        with pytest.raises(grpc.RpcError) as error:
            versions(channel, name)
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
    time.sleep(1.5)  # metrics are handed on between two looks at the labels
    toy.publish(Repository(str(cluster.storage / "bad-calls")), tmp_path / "2", "quick")
    deadline = time.monotonic() + 10
    while versions(channel, "quick") != ["2"]:
        assert time.monotonic() < deadline, "the replica no longer follows the labels"
        time.sleep(0.2)


def test_reflection_tells_the_public_messages(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(database.get_services())
    file = database.FindFileContainingSymbol("inference.GRPCInferenceService")
    assert "ModelInferRequest" in {message.name for message in file.message_type}


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_the_limit_of_a_body_holds_for_messages(channel: grpc.Channel, compression: grpc.Compression) -> None:
    request = oip.ModelInferRequest(model_name="quick", raw_input_contents=[bytes(2 * LIMIT)])
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(f"{SERVICE}ModelInfer")(
            request.SerializeToString(), timeout=30, compression=compression
        )
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in error.value.details()
    assert versions(channel, "quick") == ["2"]
