"""Optuna's own distributions and ours, there and back; prints what came of it as JSON."""

from __future__ import annotations

import json
import sys

import optuna

sys.path.insert(0, sys.argv[1])
from raymill.errors import Unsupported
from raymill.search import Space
from raymill.search.exchange import from_optuna, to_optuna

space = Space.parse(json.loads(sys.argv[2]))
distributions = to_optuna(space)
texts = {name: optuna.distributions.distribution_to_json(one) for name, one in distributions.items()}
read = {name: optuna.distributions.json_to_distribution(text) for name, text in texts.items()}

optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1, n_startup_trials=5))
for _ in range(30):
    trial = study.ask(distributions)
    space.check(trial.params)
    study.tell(trial, float(trial.params["depth"]))

try:
    to_optuna(Space.parse({"parameters": {"x": {"type": "categorical", "values": [[1], [2]]}}}))
    refused = ""
except Unsupported as error:
    refused = str(error)
found = {
    "same": from_optuna(read) == space,
    "of_a_trial": from_optuna(study.best_trial.distributions) == space,
    "trials": len(study.trials),
    "refused": refused,
}
print(json.dumps(found))
