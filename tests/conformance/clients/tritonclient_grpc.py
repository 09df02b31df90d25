"""NVIDIA's tritonclient over gRPC against a server; fails where it is not understood."""

from __future__ import annotations

import json
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

ROWS = {"x": np.array([1, 2, np.nan], np.float32), "w": np.array(["a", "é", "zz"], np.object_)}


def tensors(columns: dict[str, np.ndarray]) -> list[triton.InferInput]:
    found = []
    for name, values in columns.items():
        tensor = triton.InferInput(
            name, list(values.shape), "BYTES" if values.dtype == np.object_ else "FP32"
        )
        tensor.set_data_from_numpy(values)
        found.append(tensor)
    return found


def refused(call: object, *arguments: object, **named: object) -> list[str]:
    try:
        call(*arguments, **named)  # type: ignore[operator]
    except InferenceServerException as error:
        return [str(error.status()), str(error.message())]
    raise AssertionError("must be refused")


def main(address: str) -> None:
    client = triton.InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("toy")
    assert client.is_model_ready("toy", "1")
    metadata = client.get_model_metadata("vector", as_json=True)
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "3"]}], metadata
    config = client.get_model_config("vector", as_json=True)["config"]
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": ["-1", "3"]}], config
    assert client.get_model_config("toy", "1").config.version_policy.specific.versions == [1]
    answer = client.infer(
        "toy", tensors(ROWS), request_id="7", outputs=[triton.InferRequestedOutput("prediction")]
    )
    assert answer.get_response().id == "7"
    packed = client.infer("toy", tensors(ROWS), model_version="1", compression_algorithm="gzip")
    large = np.full((50_000, 3), 1, np.float32)
    many = client.infer("vector", tensors({"x": large})).as_numpy("prediction")
    client.unload_model("kinds")
    unloaded = {
        found["name"]: found["state"] for found in client.get_model_repository_index(as_json=True)["models"]
    }
    client.load_model("kinds")
    statistics = client.get_inference_statistics("vector", as_json=True)["model_stats"][0]
    found = {
        "scores": [answer.as_numpy("prediction").tolist(), packed.as_numpy("prediction").tolist()],
        "large": sorted(set(many.tolist())),
        "unloaded": unloaded["kinds"],
        "loaded": client.is_model_ready("kinds"),
        "rows_counted": int(statistics["inference_count"]),
        "extensions": list(client.get_server_metadata().extensions),
        "refused": [
            refused(client.infer, "tyo", tensors(ROWS)),
            refused(client.infer, "toy", tensors({"x": ROWS["x"]})),
            refused(client.infer, "vector", tensors({"x": np.ones((3, 2), np.float32)})),
            refused(client.infer, "toy", tensors(ROWS), model_version="9"),
            refused(client.get_model_metadata, "tyo"),
            refused(client.get_model_config, "tyo"),
        ],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
