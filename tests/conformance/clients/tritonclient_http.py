"""NVIDIA's tritonclient over HTTP against a server; fails where it is not understood."""

from __future__ import annotations

import asyncio
import json
import sys

import numpy as np
import tritonclient.http as http
import tritonclient.http.aio as aio
from tritonclient.utils import InferenceServerException

ROWS = {"x": np.array([1, 2, np.nan], np.float32), "w": np.array(["a", "é", "zz"], np.object_)}


def tensors(columns: dict[str, np.ndarray], *, binary: bool) -> list[http.InferInput]:
    found = []
    for name, values in columns.items():
        kind = "BYTES" if values.dtype == np.object_ else "FP32"
        tensor = http.InferInput(name, list(values.shape), kind)
        tensor.set_data_from_numpy(values, binary_data=binary)
        found.append(tensor)
    return found


def refused(call: object, *arguments: object, **named: object) -> list[str]:
    try:
        call(*arguments, **named)  # type: ignore[operator]
    except InferenceServerException as error:
        return [str(error.status()), str(error.message())]
    raise AssertionError("must be refused")


async def concurrently(address: str, many: dict[str, np.ndarray]) -> None:
    """The asyncio client, which accepts gzip unasked."""
    async with aio.InferenceServerClient(address) as client:
        statistics = await client.get_inference_statistics()
        assert len(json.dumps(statistics)) > 1024, "small answers are never packed"
        found = await asyncio.gather(*[client.infer("toy", tensors(many, binary=True)) for _ in range(8)])
        assert [len(one.as_numpy("prediction")) for one in found] == [5000] * 8
        [refusal] = await asyncio.gather(client.get_model_metadata("x" * 1500), return_exceptions=True)
        assert isinstance(refusal, InferenceServerException), refusal
        assert refusal.status() == "404", refusal


def main(address: str) -> None:
    client = http.InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("toy")
    assert client.is_model_ready("toy", "1")
    assert not client.is_model_ready("tyo")
    metadata = client.get_model_metadata("vector")
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}], metadata
    assert client.get_model_config("vector")["input"][0]["data_type"] == "TYPE_FP32"
    binary = client.infer("toy", tensors(ROWS, binary=True), request_id="7")
    assert binary.get_response()["id"] == "7"
    plain = {"x": np.array([1, 2, 10], np.float32), "w": ROWS["w"]}
    outputs = [http.InferRequestedOutput("prediction", binary_data=False)]
    as_json = client.infer("toy", tensors(plain, binary=False), outputs=outputs, model_version="1")
    packed = client.infer(
        "toy", tensors(ROWS, binary=True),
        request_compression_algorithm="gzip", response_compression_algorithm="gzip",
    )  # fmt: skip
    many = {"x": np.full(5000, 0.5, np.float32), "w": np.full(5000, "a", np.object_)}
    large = client.infer(
        "toy", tensors(many, binary=True), response_compression_algorithm="gzip", model_version="stable"
    )
    client.unload_model("kinds")
    states = {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}
    client.load_model("kinds")
    statistics = client.get_inference_statistics("toy", "1")["model_stats"][0]
    asyncio.run(concurrently(address, many))
    answer = {
        "extensions": client.get_server_metadata()["extensions"],
        "scores": [found.as_numpy("prediction").tolist() for found in (binary, as_json, packed)],
        "large": sorted(set(large.as_numpy("prediction").tolist())),
        "unloaded": states["kinds"],
        "loaded": client.is_model_ready("kinds"),
        "rows_counted": statistics["inference_count"],
        "refused": [
            refused(client.infer, "tyo", tensors(ROWS, binary=True)),
            refused(client.infer, "toy", tensors(ROWS, binary=True)[:1]),
            refused(client.infer, "toy", tensors({"x": np.zeros((3, 2), np.float32)}, binary=True)),
            refused(client.load_model, "tyo"),
        ],
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1])
