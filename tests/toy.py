"""A flavor small enough to publish a hundred versions a second, and what a version of it is made of."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from raymill.config import Spec
from raymill.errors import Corrupt
from raymill.evaluation import Task
from raymill.features import Encoder, Features, FittedColumn
from raymill.flavors import Flavor, Predictor
from raymill.repo import Lineage, Manifest, Repository, Version
from raymill.repo.manifest import ENCODER_FILE, GOLDEN_FILE, Code, Golden
from raymill.repo.version import check_golden

MODEL_FILE = "model.json"
FLAVOR = "toy:ToyFlavor"
ROWS: dict[str, list[Any]] = {"x": [1.0, 2.0, None], "w": ["a", None, "zz"]}


class ToyConfig(Spec):
    """No hyper-parameters."""


class ToyFlavor(Flavor):
    """score = weight * x, a null counting 10, plus the code of w; for classes what follows from it."""

    name = "toy"
    Config = ToyConfig
    collective = "toy:fit"
    packages = ()
    tolerance = 1e-6

    def save(self, model: Any, directory: Path) -> None:
        (directory / MODEL_FILE).write_text(json.dumps({"weight": model}))

    def load(self, directory: Path, encoder: Encoder) -> Predictor:
        try:
            weight = json.loads((directory / MODEL_FILE).read_text())["weight"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Corrupt(f"{directory / MODEL_FILE} is no toy: {error}") from error
        return ToyPredictor(weight, encoder)


class SlowFlavor(ToyFlavor):
    """The same, a tenth of a second a call."""

    name = "slow"

    def load(self, directory: Path, encoder: Encoder) -> Predictor:
        return SlowPredictor(super().load(directory, encoder))


class DeadlyFlavor(ToyFlavor):
    """The same, but for a row whose x is 666: it kills the process."""

    name = "deadly"

    def load(self, directory: Path, encoder: Encoder) -> Predictor:
        return DeadlyPredictor(super().load(directory, encoder))


class DeadlyPredictor:
    def __init__(self, quick: Predictor) -> None:
        self._quick = quick

    def predict(self, features: Features) -> np.ndarray:
        if (features.numeric_NF == 666).any():
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
        return self._quick.predict(features)


class SlowPredictor:
    def __init__(self, quick: Predictor) -> None:
        self._quick = quick

    def predict(self, features: Features) -> np.ndarray:
        time.sleep(0.1)
        return self._quick.predict(features)


class ToyPredictor:
    """All numbers count as x does, and all codes as w's."""

    def __init__(self, weight: float, encoder: Encoder) -> None:
        self._weight, self._encoder = weight, encoder

    def predict(self, features: Features) -> np.ndarray:
        x_N = np.nan_to_num(features.numeric_NF, nan=10.0).sum(axis=1)
        score_N = np.asarray(self._weight * x_N + features.codes_NC.sum(axis=1), np.float32)
        if self._encoder.task == "binary":
            return 1 / (1 + np.exp(-score_N))
        if self._encoder.task == "multiclass":
            far_NK = np.abs(score_N[:, None] - np.arange(len(self._encoder.classes), dtype=np.float32))
            return np.exp(-far_NK) / np.exp(-far_NK).sum(axis=1, keepdims=True)
        return score_N


def encoder(task: Task = "regression") -> Encoder:
    x = FittedColumn(name="x", kind="numeric", dtype="float32", nulls="mean", null_count=1)
    w = FittedColumn(
        name="w", kind="categorical", dtype="string", nulls="unknown", null_count=1, vocabulary=("a", "b")
    )
    classes = ("low", "mid", "high") if task == "multiclass" else ()
    return Encoder(columns=(x, w), target="y", task=task, classes=classes)


def vector_encoder() -> Encoder:
    """One input, a vector of three numbers."""
    x = FittedColumn(name="x", kind="numeric", dtype="float32", width=3, nulls="error", null_count=0)
    return Encoder(columns=(x,), target="y", task="regression")


def strict_encoder() -> Encoder:
    """A float, a small integer and a text, none of which may be null."""
    x = FittedColumn(name="x", kind="numeric", dtype="float32", nulls="error", null_count=0)
    n = FittedColumn(name="n", kind="numeric", dtype="int8", nulls="error", null_count=0)
    w = FittedColumn(
        name="w", kind="categorical", dtype="string", nulls="error", null_count=0, vocabulary=("a", "b")
    )
    return Encoder(columns=(x, n, w), target="y", task="regression")


STRICT: dict[str, list[Any]] = {"x": [1.0, -2.5], "n": [3, -128], "w": ["a", "zz"]}
VECTORS: dict[str, list[Any]] = {"x": [[1.0, 2.0, 3.0], [0.5, 0.0, 0.0]]}


def manifest(model: str, weight: float = 2.0, fitted: Encoder | None = None) -> Manifest:
    fitted = fitted or encoder()
    lineage = Lineage(
        run="run-1", snapshots={"train": "abc"}, data={"train": "/data"}, spec={}, seed=1,
        code=Code(sha256="0", commit=None), packages={},
    )  # fmt: skip
    return Manifest(
        model=model, flavor=FLAVOR, task=fitted.task, created="2026-11-22T00:00:00+00:00",
        signature=fitted.signature(), metrics={"test": {"rmse": weight}}, lineage=lineage, files=(),
    )  # fmt: skip


def stage(
    folder: Path, weight: float = 2.0, fitted: Encoder | None = None, rows: dict[str, list[Any]] = ROWS
) -> Path:
    """Write all files of a version but its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    flavor, fitted = ToyFlavor(), fitted or encoder()
    flavor.save(weight, folder)
    (folder / ENCODER_FILE).write_text(fitted.model_dump_json())
    scores = flavor.load(folder, fitted).predict(fitted.encode_columns(rows))
    golden = Golden(inputs=rows, scores=scores.tolist(), tolerance=flavor.tolerance)
    (folder / GOLDEN_FILE).write_text(golden.model_dump_json())
    return folder


def prove(folder: Path) -> None:
    check_golden(folder, encoder(), ToyFlavor().load(folder, encoder()))


def publish(repository: Repository, folder: Path, model: str = "toy", weight: float = 2.0) -> Version:
    return repository.publish(model, stage(folder, weight), manifest(model, weight), prove)


def publish_kinds(repository: Repository, folder: Path) -> list[str]:
    """Publish one model of every kind, label each `stable`, and return their names."""
    kinds = {
        "toy": (encoder(), ROWS),
        "chance": (encoder("binary"), ROWS),
        "kinds": (encoder("multiclass"), ROWS),
        "vector": (vector_encoder(), VECTORS),
        "strict": (strict_encoder(), STRICT),
    }
    for model, (fitted, rows) in kinds.items():
        staged = stage(folder / model, fitted=fitted, rows=rows)
        repository.publish(model, staged, manifest(model, fitted=fitted), lambda _: None)
        repository.label(model, "stable", 1)
    return list(kinds)
