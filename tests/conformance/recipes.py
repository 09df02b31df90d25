"""How each flavor trains a tiny model without Ray; one entry per flavor, or the conformance tests fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from raymill.evaluation import Task
from raymill.features import Encoder, Features, FittedColumn
from raymill.registry import import_target

ROWS = 240
TASKS: tuple[Task, ...] = ("binary", "multiclass", "regression")
CLASSES = ("high", "low", "mid")


def table(seed: int = 0) -> pa.Table:
    """Return rows with every kind of column, nulls in some, and the targets of all tasks."""
    rng = np.random.default_rng(seed)
    x_N, z_N = rng.normal(5, 3, ROWS), rng.integers(-50, 50, ROWS)
    word_N = rng.choice(["a", "b", "c"], ROWS)
    signal_N = x_N - 5 + 2 * (word_N == "a")
    return pa.table(
        {
            "x": pa.array(x_N, pa.float32(), mask=rng.random(ROWS) < 0.2),
            "z": pa.array(z_N, pa.int16()),
            "flag": pa.array(rng.random(ROWS) < 0.5, mask=rng.random(ROWS) < 0.1),
            "word": pa.array(word_N, mask=rng.random(ROWS) < 0.1),
            "code": pa.array(rng.integers(0, 4, ROWS), pa.int64()),
            "binary": pa.array(signal_N > 0),
            "multiclass": pa.array(np.select([signal_N > 1, signal_N < -1], ["high", "low"], "mid")),
            "regression": pa.array(signal_N, pa.float32()),
        }
    )


def encoder(task: Task) -> Encoder:
    numbers = {"x": ("float32", "mean"), "z": ("int16", "error"), "flag": ("bool", 0.5)}
    categories: dict[str, tuple[str, tuple[str | int, ...]]] = {
        "word": ("string", ("a", "b")),  # "c" is unknown
        "code": ("int64", (3, 0, 1, 2)),
    }
    columns = [
        FittedColumn(name=name, kind="numeric", dtype=dtype, nulls=nulls, null_count=0, mean=5.0, std=3.0)
        for name, (dtype, nulls) in numbers.items()
    ]
    columns += [
        FittedColumn(
            name=name, kind="categorical", dtype=dtype, nulls="unknown", null_count=0, vocabulary=vocabulary
        )
        for name, (dtype, vocabulary) in categories.items()
    ]
    return Encoder(
        columns=tuple(columns), target=task, task=task, classes=CLASSES if task == "multiclass" else ()
    )


def encoded(task: Task, seed: int = 0) -> tuple[Encoder, Features, np.ndarray]:
    fitted, rows = encoder(task), table(seed)
    return fitted, fitted.encode_table(rows), fitted.encode_labels(rows.column(task))


def train_torch(fitted: Encoder, features: Features, labels_N: np.ndarray) -> Any:
    from raymill.flavors.torch_flavor import TorchConfig
    from raymill.flavors.torch_learner import TorchLearner

    learner = TorchLearner(fitted, TorchConfig(hidden=(8,), learning_rate=0.05), seed=1)
    for _ in range(5):
        learner.apply(learner.gradients(features, labels_N, len(features))[1])
    return learner


def train_tensorflow(fitted: Encoder, features: Features, labels_N: np.ndarray) -> Any:
    learner = tensorflow_learner(fitted)
    for _ in range(5):
        learner.apply(learner.gradients(features, labels_N, len(features))[1])
    return learner


def train_xgboost(fitted: Encoder, features: Features, labels_N: np.ndarray) -> Any:
    import xgboost

    from raymill.flavors.xgboost_flavor import XGBoostConfig, feature_types, matrix

    data = xgboost.DMatrix(
        matrix(features), labels_N, feature_types=feature_types(fitted), enable_categorical=True
    )
    config = XGBoostConfig(max_depth=3, learning_rate=0.3)
    return xgboost.train(config.parameters(fitted, seed=1) | {"nthread": 1}, data, num_boost_round=5)


def learner_scores(model: Any, features: Features) -> np.ndarray:
    return np.asarray(model.predict(features))


def xgboost_scores(model: Any, features: Features) -> np.ndarray:
    import xgboost

    from raymill.flavors.xgboost_flavor import matrix

    types = ["q"] * features.numeric_NF.shape[1] + ["c"] * features.codes_NC.shape[1]
    data = xgboost.DMatrix(matrix(features), feature_types=types, enable_categorical=True)
    return np.asarray(model.predict(data))


Train = Callable[[Encoder, Features, np.ndarray], Any]
Scores = Callable[[Any, Features], np.ndarray]

FLAVOR_RECIPES: dict[str, tuple[Train, Scores]] = {
    "onnx": (train_torch, learner_scores),
    "tensorflow": (train_tensorflow, learner_scores),
    "torch": (train_torch, learner_scores),
    "xgboost": (train_xgboost, xgboost_scores),
}
"""Flavor to how a tiny model is trained, and how the framework itself scores rows with it."""


def torch_learner(fitted: Encoder) -> Any:
    config = import_target("raymill.flavors.torch_flavor:TorchConfig")(hidden=(8,), learning_rate=0.05)
    return import_target("raymill.flavors.torch_learner:TorchLearner")(fitted, config, seed=3)


def tensorflow_learner(fitted: Encoder) -> Any:
    flavor = import_target("raymill.flavors.tf_flavor:TFFlavor")
    import_target("raymill.flavors.tf_flavor:load_tensorflow")()
    config = flavor.Config(hidden=(8,), learning_rate=0.05)
    return import_target("raymill.flavors.tf_learner:TFLearner")(fitted, config, seed=3)


LEARNER_RECIPES: dict[str, Callable[[Encoder], Any]] = {
    "tensorflow": tensorflow_learner, "torch": torch_learner,
}  # fmt: skip
"""Flavor whose models learn by gradients to a fresh learner."""
