"""The models that benchmarks/serving.py serves: one vector of 28 floats to the chances of 3 classes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from raymill.features import Encoder, Features, FittedColumn
from raymill.flavors import FLAVORS
from raymill.registry import import_target
from raymill.repo import Lineage, Manifest, Repository
from raymill.repo.manifest import ENCODER_FILE, GOLDEN_FILE, Code, Golden
from raymill.repo.version import check_golden

FEATURES, CLASSES, HIDDEN = 28, ("a", "b", "c"), 64
PROGRAMS = ("program", "own")
"""Served by torch itself, with no ONNX graph beside."""
LEARNERS = {
    "torch": ("raymill.flavors.torch_flavor:TorchConfig", "raymill.flavors.torch_learner:TorchLearner"),
    "onnx": ("raymill.flavors.torch_flavor:TorchConfig", "raymill.flavors.torch_learner:TorchLearner"),
    "tensorflow": ("raymill.flavors.tf_flavor:TFConfig", "raymill.flavors.tf_learner:TFLearner"),
}


def encoder() -> Encoder:
    x = FittedColumn(
        name="x", kind="numeric", dtype="float32", width=FEATURES, nulls="error", null_count=0, std=1.0
    )
    return Encoder(columns=(x,), target="y", task="multiclass", classes=CLASSES)


def rows(count: int) -> np.ndarray:
    """Return [count, FEATURES] float32, the same ones each time."""
    return np.random.default_rng(0).normal(size=(count, FEATURES)).astype(np.float32)


def features(rows_NF: np.ndarray) -> Features:
    return Features(rows_NF, np.empty((len(rows_NF), 0), np.int32))


def publish(flavor: str, root: Path) -> Path:
    """Publish a model under its flavor's name, a torch program under those of PROGRAMS; return its folder."""
    fitted, name = encoder(), flavor
    flavor = "torch" if name in PROGRAMS else name
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder)
        kind = FLAVORS.load(flavor)()
        model = _model(flavor, fitted)
        kind.save(model, staged)
        given = rows(4)
        scores = kind.load(staged, fitted).predict(features(given))
        golden = Golden(inputs={"x": given.tolist()}, scores=scores.tolist(), tolerance=1e-4)
        (staged / GOLDEN_FILE).write_text(golden.model_dump_json())
        (staged / ENCODER_FILE).write_text(fitted.model_dump_json())
        if name not in PROGRAMS:
            kind.prepare_serving(
                model, staged, lambda: check_golden(staged, fitted, kind.load(staged, fitted))
            )
        code = Code(sha256="", commit=None)
        lineage = Lineage(run="benchmark", snapshots={}, data={}, spec={}, seed=0, code=code, packages={})
        manifest = Manifest(
            model=name, flavor=flavor, task="multiclass", created="", signature=fitted.signature(),
            metrics={}, lineage=lineage, files=(),
        )  # fmt: skip
        Repository(str(root)).publish(name, staged, manifest, lambda _: None)
    return root / name / "1"


def _model(flavor: str, fitted: Encoder) -> Any:
    if flavor in LEARNERS:
        config, learner = map(import_target, LEARNERS[flavor])
        return learner(fitted, config(hidden=(HIDDEN,)), seed=0)
    import xgboost

    from raymill.flavors.xgboost_flavor import XGBoostConfig, feature_types

    rng = np.random.default_rng(1)
    data = xgboost.DMatrix(
        rng.normal(size=(2000, FEATURES)), rng.integers(0, len(CLASSES), 2000),
        feature_types=feature_types(fitted), enable_categorical=True,
    )  # fmt: skip
    return xgboost.train(XGBoostConfig(max_depth=4).parameters(fitted, 0) | {"nthread": 1}, data, 30)
