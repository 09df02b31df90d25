"""KServe's REST client against a server; fails where it is not understood."""

from __future__ import annotations

import asyncio
import json
import sys

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


def request(*, binary: bool) -> InferRequest:
    x = InferInput("x", [2], "FP32")
    x.set_data_from_numpy(np.array([1, 2], np.float32), binary_data=binary)
    w = InferInput("w", [2], "BYTES")
    w.set_data_from_numpy(np.array(["a", "zz"], np.object_), binary_data=binary)
    return InferRequest("toy", [x, w])


async def main(url: str) -> None:
    scores = []
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        assert await client.is_server_live(url)
        assert await client.is_server_ready(url)
        assert await client.is_model_ready(url, "toy")
        assert not await client.is_model_ready(url, "tyo")
        for binary in (False, True):
            answer = await client.infer(url, request(binary=binary), model_name="toy")
            scores.append(answer.outputs[0].as_numpy().tolist())
        try:
            await client.infer(url, request(binary=True), model_name="tyo")
            raise AssertionError("must be refused")
        except httpx.HTTPStatusError as error:
            refused = str(error)
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        assert await client.is_server_live(url)
        rows = {"instances": [{"x": 1.0, "w": "a"}, {"x": 2.0, "w": "zz"}]}
        scores.append((await client.infer(url, rows, model_name="toy"))["predictions"])
    print(json.dumps({"scores": scores, "refused": refused}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
