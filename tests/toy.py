"""A flavor small enough to publish a hundred versions a second, and what a version of it is made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from raymill.config import Spec
from raymill.errors import Corrupt
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
    """score = weight * x, a null counting 10, plus the code of w."""

    name = "toy"
    Config = ToyConfig
    collective = "toy:fit"
    packages = ()
    tolerance = 1e-6

    def save(self, model: Any, directory: Path) -> None:
        (directory / MODEL_FILE).write_text(json.dumps({"weight": model}))

    def load(self, directory: Path, encoder: Encoder) -> Predictor:
        try:
            return ToyPredictor(json.loads((directory / MODEL_FILE).read_text())["weight"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Corrupt(f"{directory / MODEL_FILE} is no toy: {error}") from error


class ToyPredictor:
    def __init__(self, weight: float) -> None:
        self._weight = weight

    def predict(self, features: Features) -> np.ndarray:
        x_N = np.nan_to_num(features.numeric_NF[:, 0], nan=10.0)
        return np.asarray(self._weight * x_N + features.codes_NC[:, 0], np.float32)


def encoder() -> Encoder:
    x = FittedColumn(name="x", kind="numeric", dtype="float32", nulls="mean", null_count=1)
    w = FittedColumn(
        name="w", kind="categorical", dtype="string", nulls="unknown", null_count=1, vocabulary=("a", "b")
    )
    return Encoder(columns=(x, w), target="y", task="regression")


def manifest(model: str, weight: float = 2.0) -> Manifest:
    lineage = Lineage(
        run="run-1", snapshots={"train": "abc"}, data={"train": "/data"}, spec={}, seed=1,
        code=Code(sha256="0", commit=None), packages={},
    )  # fmt: skip
    return Manifest(
        model=model, flavor=FLAVOR, task="regression", created="2026-11-22T00:00:00+00:00",
        signature=encoder().signature(), metrics={"test": {"rmse": weight}}, lineage=lineage, files=(),
    )  # fmt: skip


def stage(folder: Path, weight: float = 2.0) -> Path:
    """Write all files of a version but its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    flavor, fitted = ToyFlavor(), encoder()
    flavor.save(weight, folder)
    (folder / ENCODER_FILE).write_text(fitted.model_dump_json())
    scores = flavor.load(folder, fitted).predict(fitted.encode_columns(ROWS))
    golden = Golden(inputs=ROWS, scores=scores.tolist(), tolerance=flavor.tolerance)
    (folder / GOLDEN_FILE).write_text(golden.model_dump_json())
    return folder


def prove(folder: Path) -> None:
    check_golden(folder, encoder(), ToyFlavor().load(folder, encoder()))


def publish(repository: Repository, folder: Path, model: str = "toy", weight: float = 2.0) -> Version:
    return repository.publish(model, stage(folder, weight), manifest(model, weight), prove)
