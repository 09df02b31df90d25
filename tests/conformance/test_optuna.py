"""Spaces to Optuna's distributions and back, with Optuna in an environment of its own."""

from __future__ import annotations

import json
from pathlib import Path

from environments import run

PLATFORM = Path(__file__).resolve().parents[2] / "platform"
SPACE = {
    "parameters": {
        "eta": {"type": "float", "low": 0.001, "high": 1, "log": True},
        "share": {"type": "float", "low": 0.25, "high": 1, "step": 0.25},
        "depth": {"type": "int", "low": 2, "high": 12, "step": 2},
        "leaves": {"type": "int", "low": 1, "high": 1000, "log": True},
        "booster": {"type": "categorical", "values": ["tree", "dart", None]},
        "exact": {"type": "boolean"},
        "seed": {"type": "fixed", "value": 7},
    }
}


def test_what_goes_to_optuna_comes_back_the_same_and_optuna_draws_from_it() -> None:
    found = run("optuna_space", str(PLATFORM), json.dumps(SPACE))
    assert found["same"]
    assert found["of_a_trial"]
    assert found["trials"] == 30
    assert "'x' has value [1]" in found["refused"]
