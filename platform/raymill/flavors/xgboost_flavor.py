"""XGBoost models, kept as universal binary JSON (`model.ubj`), which loads without pickle.

Nulls need no policy arithmetic here: NaN is XGBoost's missing value and goes where training found
best. Categories are split as categories, not as numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from raymill.config import Spec
from raymill.errors import Corrupt, SpecError, needs_extra
from raymill.evaluation import Task
from raymill.features import Encoder, Features
from raymill.flavors.base import Flavor, Predictor
from raymill.flavors.options import EarlyStopping
from raymill.flavors.ubjson import check_whole

MODEL_FILE, BOOSTER = "model.ubj", "booster"
OBJECTIVES: dict[Task, str] = {
    "binary": "binary:logistic",
    "multiclass": "multi:softprob",
    "regression": "reg:squarederror",
}


class XGBoostConfig(Spec):
    """Boosting parameters, by XGBoost's own names where it has them."""

    rounds: int = Field(default=100, ge=1)
    max_depth: int = Field(default=6, ge=0)
    learning_rate: float = Field(default=0.1, gt=0)
    subsample: float = Field(default=1.0, gt=0, le=1)
    colsample_bytree: float = Field(default=1.0, gt=0, le=1)
    min_child_weight: float = Field(default=1.0, ge=0)
    reg_lambda: float = Field(default=1.0, ge=0)
    max_cat_to_onehot: int = Field(default=4, ge=1)
    """Categories up to which a categorical split tries one against the rest."""
    measure_every: int = Field(default=10, ge=1)
    """Rounds between exact measurements of the validation set; the last round is always measured."""
    early_stopping: EarlyStopping | None = None
    """`patience` counts measurements; the rounds up to the best one are kept."""
    params: dict[str, Any] = {}
    """Any further XGBoost parameter, passed as it is."""

    def parameters(self, encoder: Encoder, seed: int) -> dict[str, Any]:
        """Return the parameter dictionary that `xgboost.train` takes."""
        named = self.model_dump(exclude={"rounds", "measure_every", "early_stopping", "params"})
        named |= {"objective": OBJECTIVES[encoder.task], "tree_method": "hist", "seed": seed}
        if encoder.task == "multiclass":
            named["num_class"] = len(encoder.classes)
        return named | self.params


class XGBoostFlavor(Flavor):
    """Saves and loads boosters."""

    name = "xgboost"
    Config = XGBoostConfig
    collective = "raymill.train.xgboost_ddp:fit"
    workers_in_trial = True  # as xgboost-ray does wherever there is a placement group
    local = "raymill.train.xgboost_local:fit"
    duration = "rounds"
    mutable = (
        "max_depth", "learning_rate", "subsample", "colsample_bytree", "min_child_weight", "reg_lambda",
        "max_cat_to_onehot",
    )  # fmt: skip
    packages = ("xgboost", "xgboost-ray")

    def probe(self, config: XGBoostConfig, encoder: Encoder) -> None:
        """Boost one round on two rows: XGBoost knows its parameters only when it trains."""
        with needs_extra("xgboost"):
            import xgboost

        rows_NF = np.zeros((2, len(encoder.numeric) + len(encoder.categorical)), np.float32)
        data = xgboost.DMatrix(
            rows_NF, np.arange(2.0), feature_names=feature_names(encoder),
            feature_types=feature_types(encoder), enable_categorical=True,
        )  # fmt: skip
        try:
            xgboost.train(config.parameters(encoder, 0) | {"verbosity": 0, "nthread": 1}, data, 1)
        except xgboost.core.XGBoostError as error:
            said = next(line for line in str(error).splitlines() if line.strip())
            raise SpecError(
                f"XGBoost refuses these hyper-parameters: {said}; look at flavors.xgboost and its params"
            ) from error

    def save(self, model: Any, directory: Path) -> None:
        """Write `model`, an `xgboost.Booster`."""
        model.save_model(directory / MODEL_FILE)

    def load(self, directory: Path, encoder: Encoder) -> Predictor:
        with needs_extra("xgboost"):
            import xgboost

        booster = xgboost.Booster({"nthread": 1})
        try:
            data = (directory / MODEL_FILE).read_bytes()
            check_whole(data)
            booster.load_model(bytearray(data))
        except (xgboost.core.XGBoostError, ValueError, OSError, Corrupt) as error:
            raise Corrupt(f"{directory / MODEL_FILE} is not an XGBoost model: {error}") from error
        return BoosterPredictor(booster, encoder)

    def weights(self, directory: Path) -> dict[str, np.ndarray]:
        """Return the saved booster as bytes, uint8, by the name BOOSTER; for `booster_of`."""
        return {BOOSTER: np.fromfile(directory / MODEL_FILE, np.uint8)}


def booster_of(start: Mapping[str, np.ndarray] | None) -> Any:
    """Return the `xgboost.Booster` of a flavor's `weights`, to boost on from; None for None.

    Raises:
        Corrupt: the bytes are not what this flavor writes.
    """
    if start is None:
        return None
    with needs_extra("xgboost"):
        import xgboost

    try:
        return xgboost.Booster(model_file=bytearray(start[BOOSTER].tobytes()))
    except (xgboost.core.XGBoostError, ValueError) as error:
        raise Corrupt(f"the version to continue from holds no XGBoost model: {error}") from error


class BoosterPredictor:
    """Predicts with a booster in place, without building a DMatrix."""

    def __init__(self, booster: Any, encoder: Encoder) -> None:
        self._booster = booster
        self._no_scores = np.empty(
            (0, len(encoder.classes)) if encoder.task == "multiclass" else 0, np.float32
        )

    def predict(self, features: Features) -> np.ndarray:
        if len(features) == 0:
            return self._no_scores  # XGBoost would answer with shape (0, 0)
        return np.asarray(self._booster.inplace_predict(matrix(features)), np.float32)


def matrix(features: Features) -> np.ndarray:
    """Return float32 [rows, numeric + categorical] columns; codes are exact below 2**24."""
    return np.concatenate([features.numeric_NF, features.codes_NC.astype(np.float32)], axis=1)


def feature_names(encoder: Encoder) -> list[str]:
    """Return the name of each column of `matrix`; XGBoost takes no brackets, so vectors have dots."""
    names = [column.name for column in (*encoder.numeric, *encoder.categorical)]
    return [name.replace("[", ".").replace("]", "").replace("<", ".") for name in names]


def feature_types(encoder: Encoder) -> list[str]:
    """Return XGBoost's type of each column of `matrix`: q for numbers, c for categories."""
    return ["q"] * len(encoder.numeric) + ["c"] * len(encoder.categorical)
