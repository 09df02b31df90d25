"""Rows on Ray Serve: `python ray_rows.py '{"apps": [...], "port": ..., ...}'`, until stdin closes.

Apps: `models`, Raymill's own of a repository; `plain`, a deployment as Serve's documentation writes one;
`raw`, an ASGI callable that does the least, with the model. Prints "ready" when all of them answer.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import ray
from program import Program
from ray import serve
from starlette.requests import Request

ONGOING = 128  # as Raymill's own replicas have it


class Plain:
    def __init__(self, path: str) -> None:
        self._program = Program(path)

    async def __call__(self, request: Request) -> dict[str, Any]:
        rows = np.asarray((await request.json())["instances"], np.float32)
        return {"predictions": self._program(rows).tolist()}


class Raw:
    def __init__(self, path: str) -> None:
        self._program = Program(path)

    def __serve_build_asgi_app__(self) -> Any:
        import orjson

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                while (message := await receive())["type"] != "lifespan.shutdown":
                    await send({"type": f"{message['type']}.complete"})
                await send({"type": "lifespan.shutdown.complete"})
                return
            body = b""
            while True:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
            scores = self._program(np.asarray(orjson.loads(body)["instances"], np.float32))
            answer = orjson.dumps({"predictions": scores}, option=orjson.OPT_SERIALIZE_NUMPY)
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": answer})

        return app


def main(settings: dict[str, Any]) -> None:
    ray.init(address="local", num_cpus=6, include_dashboard=False, _temp_dir=settings["temp_dir"])
    grpc = {}
    if "models" in settings["apps"]:
        functions = ("add_prediction_service", "add_model_service", "add_inference_service")
        grpc = {
            "port": settings["grpc_port"],
            "grpc_servicer_functions": [f"raymill.serving.rpc:{name}" for name in functions],
        }
    serve.start(http_options={"host": "127.0.0.1", "port": settings["port"]}, grpc_options=grpc or None)
    for name in settings["apps"]:
        serve.run(application(name, settings), name=name, route_prefix=settings["apps"][name])
    print("ready", flush=True)
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()


def application(name: str, settings: dict[str, Any]) -> Any:
    if name == "models":
        from raymill.serving.deployment import build
        from raymill.serving.spec import ServeSpec

        return build(ServeSpec.model_validate(settings["spec"]))
    kind = {"plain": Plain, "raw": serve.ingress()(Raw)}[name]
    return serve.deployment(kind, max_ongoing_requests=ONGOING).bind(settings["program"])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
