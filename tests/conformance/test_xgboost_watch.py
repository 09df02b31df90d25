"""What watches xgboost-ray's actors leaves the model as other callbacks of XGBoost expect it."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import xgboost

from raymill.train.xgboost_measure import Watch

SETTINGS = {"max_depth": 2, "nthread": 1, "subsample": 0.5, "seed": 3, "seed_per_iteration": 1}
FIRST, ROUNDS = 7, 4


def test_a_round_is_seeded_by_its_place_and_the_model_can_be_stored_right_after() -> None:
    """XGBoost calls callbacks in a set's order, so xgboost-ray may pickle the model before ours is asked."""
    rows_NF = np.random.default_rng(1).normal(size=(200, 3))
    data = xgboost.DMatrix(rows_NF, rows_NF.sum(axis=1))
    watch: Any = Watch.__new__(Watch)
    watch._first = FIRST
    watched, plain = (xgboost.Booster(SETTINGS, [data]) for _ in range(2))
    for epoch in range(ROUNDS):
        assert watch.before_iteration(watched, epoch, {}) is False
        watched.update(data, epoch, None)
        stored = pickle.loads(pickle.dumps(watched))
        plain.update(data, FIRST + epoch)
        assert stored.save_raw("ubj") == plain.save_raw("ubj")
    assert plain.num_boosted_rounds() == ROUNDS
