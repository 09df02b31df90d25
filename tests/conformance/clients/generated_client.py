"""A client that openapi-python-client makes of /openapi.json; fails where that or an answer does not fit."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path


def main(address: str) -> None:
    programs = Path(sys.executable).parent
    path = os.pathsep.join([str(programs), os.environ["PATH"]])  # it calls ruff, which came with it
    with tempfile.TemporaryDirectory() as folder:
        made = subprocess.run(
            [
                str(programs / "openapi-python-client"), "generate",
                "--url", f"{address}/openapi.json", "--meta", "none",
                "--output-path", f"{folder}/generated", "--fail-on-warning",
            ],
            capture_output=True, text=True, env=os.environ | {"PATH": path},
        )  # fmt: skip
        assert made.returncode == 0, made.stdout + made.stderr
        sys.path.insert(0, folder)
        print(json.dumps(ask(address)))


def ask(address: str) -> dict[str, object]:
    models = importlib.import_module("generated.models")
    api = importlib.import_module("generated.api")
    modules = {
        found.name.rsplit(".", 1)[1]: importlib.import_module(found.name)
        for found in pkgutil.walk_packages(api.__path__, "generated.api.")
    }
    client = importlib.import_module("generated").Client(address)
    rows = models.PostV1ModelsToyPredictBodyType0.from_dict(
        {"instances": [{"x": 1.0, "w": "a"}, {"x": 2.0, "w": "c"}]}
    )
    examples = models.PostV1ModelsChanceClassifyBody.from_dict({"examples": [{"x": 1.0, "w": "a"}]})
    missing = models.PostV1ModelsToyPredictBodyType0.from_dict({"instances": []})
    return {
        "operations": len(modules),
        "scores": modules["post_v1_models_toy_predict"].sync(client=client, body=rows).predictions,
        "classes": modules["post_v1_models_chance_classify"].sync(client=client, body=examples).results,
        "ping": modules["get_ping"].sync(client=client).status,
        "refused": modules["post_v1_models_toy_predict"].sync(client=client, body=missing).error,
    }


if __name__ == "__main__":
    main(sys.argv[1])
