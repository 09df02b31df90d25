"""gRPC clients that nobody here wrote, each in an environment and a process of its own; no Ray."""

from __future__ import annotations

import grpc
import pytest
from environments import run
from grpc_health.v1 import health_pb2, health_pb2_grpc

from raymill.serving.proto import oip_messages_pb2 as oip


def test_tritonclient(address: str) -> None:
    found = run("tritonclient_grpc", address)
    assert {"model_repository", "statistics", "model_configuration"} <= set(found["extensions"])
    assert found["scores"] == [[3.0, 4.0, 20.0]] * 2
    assert found["large"] == [6.0]
    assert (found["unloaded"], found["loaded"]) == ("UNAVAILABLE", True)
    assert found["rows_counted"] >= 50_000
    codes, messages = zip(*found["refused"], strict=True)
    not_found, invalid = "StatusCode.NOT_FOUND", "StatusCode.INVALID_ARGUMENT"
    assert codes == (not_found, invalid, invalid, not_found, not_found, not_found)
    assert "Did you mean 'toy'" in messages[0]
    assert "missing inputs: w" in messages[1]
    assert "has shape [3, 2]" in messages[2]


@pytest.mark.timeout(600)
def test_tensorflow_serving_api(address: str) -> None:
    found = run("tfserving_iris", address, timeout=300)
    assert found["predictions"] == [18.0]
    assert found["input"] == ["float32", [-1, 3]]
    assert found["states"] == [[1, "AVAILABLE"]]
    assert (found["class"], found["regressed"]) == ("high", 3.0)
    codes, messages = zip(*found["refused"], strict=True)
    assert codes == ("NOT_FOUND", "INVALID_ARGUMENT", "NOT_FOUND")
    assert "Did you mean 'toy'" in messages[0]
    assert "has shape [1, 2]" in messages[1]


def test_health(address: str) -> None:
    """gRPC's own stub, as Kubernetes' probes and load balancers ask."""
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def status(service: str) -> str:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
            return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

        for service in ("", "inference.GRPCInferenceService", "tensorflow.serving.PredictionService", "toy"):
            assert status(service) == "SERVING"
        unload = channel.unary_unary(
            "/inference.GRPCInferenceService/RepositoryModelUnload",
            request_serializer=oip.RepositoryModelRequest.SerializeToString,
        )
        unload(oip.RepositoryModelRequest(model_name="strict"), timeout=20)
        assert (status("strict"), status("toy"), status("")) == ("NOT_SERVING", "SERVING", "SERVING")
        everything = stub.List(health_pb2.HealthListRequest(), timeout=20).statuses
        assert {name for name in everything if everything[name].status != 1} == {"strict"}
        with pytest.raises(grpc.RpcError, match="no service or model 'tyo'") as error:
            status("tyo")
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.RpcError) as error:
            next(stub.Watch(health_pb2.HealthCheckRequest(), timeout=20))
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
        load = channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelLoad")
        load(oip.RepositoryModelRequest(model_name="strict").SerializeToString(), timeout=20)
