"""The other examples, and TensorFlow on the flights, as users run them: submitted, published, served."""

from __future__ import annotations

import json
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Cluster, closing_line
from test_chain import call

MODELS = {
    "iris": ["examples/iris/train.yaml"],
    "digits": ["examples/digits/train.yaml", "flavors.torch.epochs=8"],
    "flights-tensorflow": [
        "examples/flights/train.yaml", "flavor=tensorflow", "model=flights-tensorflow",
        "read.order=sampled", "read.options={fraction: 0.3}", "flavors.tensorflow.epochs=2",
    ],
}  # fmt: skip
"""Model to the spec it is trained by, with overrides that keep the test short."""
FLOOR = {"iris": ("accuracy", 0.9), "digits": ("accuracy", 0.9), "flights-tensorflow": ("auc", 0.64)}


@pytest.fixture(scope="module")
def trained(cluster: Cluster, flights: Path) -> dict[str, dict[str, Any]]:
    for example in ("iris", "digits"):
        code, output = cluster.submit(f"examples/{example}/prepare.py")
        assert code == 0, output
    results = {}
    for model, (spec, *settings) in MODELS.items():
        overrides = [part for setting in settings for part in ("--set", setting)]
        code, output = cluster.submit("jobs/train.py", "--config", spec, *overrides)
        assert code == 0, output
        results[model] = closing_line(output)
    return results


@pytest.fixture(scope="module")
def served(cluster: Cluster, trained: dict[str, dict[str, Any]]) -> str:
    settings = {
        "models": f"{{{': , '.join(MODELS)}: }}", "port": cluster.serve_port, "grpc_port": cluster.grpc_port,
    }  # fmt: skip
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    code, output = cluster.submit("jobs/serve.py", "--config", "examples/iris/serve.yaml", *overrides)
    assert code == 0, output
    return str(closing_line(output)["url"])


@pytest.mark.parametrize("model", MODELS)
def test_an_example_is_learned_published_and_served(
    served: str, trained: dict[str, dict[str, Any]], model: str
) -> None:
    result = trained[model]
    metric, floor = FLOOR[model]
    assert result["metrics"]["validation"][metric] > floor
    check_golden(served, model, Path(result["path"]))


def check_golden(url: str, model: str, version: Path) -> None:
    """Ask for the rows that the version was proven by; the served scores are those stored beside it."""
    golden = json.loads((version / "golden.json").read_text())
    names, columns = golden["inputs"].keys(), golden["inputs"].values()
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    status, answer = call(f"{url}/v1/models/{model}:predict", {"instances": rows})
    assert status == 200, answer
    np.testing.assert_allclose(answer["predictions"], golden["scores"], atol=1e-5)


def test_tensorflow_of_the_job_is_a_plain_saved_model(trained: dict[str, dict[str, Any]]) -> None:
    """Raw columns in, as TensorFlow Serving would send them; none of raymill is in the way."""
    import tensorflow as tf

    path = Path(trained["flights-tensorflow"]["path"])
    golden = json.loads((path / "golden.json").read_text())
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    specs = serve.structured_input_signature[1]
    inputs = {
        name: tf.constant(column(values, specs[name].dtype), specs[name].dtype)
        for name, values in golden["inputs"].items()
    }
    (scores,) = serve(**inputs).values()
    assert scores.numpy().ravel().tolist() == pytest.approx(golden["scores"], abs=1e-5)


def column(values: list[Any], dtype: Any) -> list[Any]:
    """Return values as TensorFlow takes them: it knows no null, and ours stand for NaN and empty text."""
    missing: Any = float("nan") if dtype.is_floating else ""
    return [missing if value is None else value for value in values]


OWN = """
from torch import nn


class Network(nn.Module):
    def __init__(self, encoder, options):
        super().__init__()
        self.layer = nn.Linear(len(encoder.numeric), options["classes"])

    def forward(self, numeric, codes):
        return self.layer(numeric)
"""


def test_a_network_of_ones_own_travels_with_the_submission(
    cluster: Cluster, trained: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """A module beside `jobs/` in the working dir, on no path of any node."""
    for folder in ("jobs", "platform"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "my_network.py").write_text(OWN)
    network = "{network: 'my_network:Network', options: {classes: 3}, epochs: 30, learning_rate: 0.05}"
    done = cluster.run(
        "ray", "job", "submit", "--working-dir", str(tmp_path), "--",
        "python", "jobs/train.py", "--config", str(ROOT / "examples/iris/train.yaml"),
        "--set", "model=iris-own", "--set", "workers=2", "--set", f"flavors.torch={network}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert closing_line(done.stdout)["metrics"]["validation"]["accuracy"] > 0.8


def test_the_dashboards_train_page_has_the_runs(cluster: Cluster, trained: dict[str, dict[str, Any]]) -> None:
    token = Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
    page = urllib.request.Request(
        f"{cluster.dashboard}/api/train/v2/runs/v1", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(page, timeout=30) as response:
        names = {run["name"]: run["status"] for run in json.load(response)["train_runs"]}
    for result in trained.values():
        assert names[result["run"]] == "FINISHED"
