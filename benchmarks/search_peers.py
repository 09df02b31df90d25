"""One peer on COCO, in the peers' environment: prints {problem: best value} as JSON (see search.py)."""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from collections.abc import Callable

import numpy as np
from search_coco import Problem, numbers, problems

Run = Callable[[Problem, int, int], None]


def optuna_sampler(kind: str) -> Run:
    def run(problem: Problem, evaluations: int, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        samplers = {
            "tpe": lambda: optuna.samplers.TPESampler(seed=seed),
            "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=seed, population_size=20),
            "cmaes": lambda: optuna.samplers.CmaEsSampler(seed=seed),
            "qmc": lambda: optuna.samplers.QMCSampler(seed=seed, scramble=True),
            "gp": lambda: optuna.samplers.GPSampler(seed=seed),
        }

        def objective(trial: optuna.Trial) -> float:
            return problem.value(
                [
                    trial.suggest_int(f"x{at}", int(low), int(high))
                    if at < problem.integers
                    else trial.suggest_float(f"x{at}", low, high)
                    for at, (low, high) in enumerate(zip(problem.low, problem.high, strict=True))
                ]
            )

        optuna.create_study(sampler=samplers[kind]()).optimize(objective, n_trials=evaluations)

    return run


def nevergrad_optimizer(kind: str) -> Run:
    def run(problem: Problem, evaluations: int, seed: int) -> None:
        import nevergrad as ng

        middle = (np.array(problem.low) + np.array(problem.high)) / 2
        array = ng.p.Array(init=middle, lower=problem.low, upper=problem.high)
        array.random_state = np.random.RandomState(seed)
        optimizer = ng.optimizers.registry[kind](array, budget=evaluations)
        for _ in range(evaluations):
            asked = optimizer.ask()
            optimizer.tell(asked, problem.value(asked.value))

    return run


def hyperopt_anneal(problem: Problem, evaluations: int, seed: int) -> None:
    import hyperopt

    box = zip(problem.low, problem.high, strict=True)
    space = [hyperopt.hp.uniform(f"x{at}", *ends) for at, ends in enumerate(box)]
    hyperopt.fmin(
        lambda x: problem.value(x), space, algo=hyperopt.anneal.suggest, max_evals=evaluations,
        rstate=np.random.default_rng(seed), show_progressbar=False, verbose=False,
    )  # fmt: skip


def scipy_annealing(problem: Problem, evaluations: int, seed: int) -> None:
    from scipy.optimize import dual_annealing

    dual_annealing(
        lambda x: problem.value(x), list(zip(problem.low, problem.high, strict=True)), rng=seed,
        maxfun=evaluations, no_local_search=True, maxiter=evaluations,
    )  # fmt: skip


def skopt_gp(problem: Problem, evaluations: int, seed: int) -> None:
    import skopt

    box = [(float(low), float(high)) for low, high in zip(problem.low, problem.high, strict=True)]
    skopt.gp_minimize(lambda x: problem.value(x), box, n_calls=evaluations, random_state=seed)


def botorch_logei(problem: Problem, evaluations: int, seed: int) -> None:
    """Run BoTorch's default: SingleTaskGP and LogEI from restarts, after 2 D Sobol points."""
    import torch
    from botorch.acquisition import LogExpectedImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.models.transforms import Standardize
    from botorch.optim import optimize_acqf
    from gpytorch.mlls import ExactMarginalLogLikelihood

    torch.manual_seed(seed)
    low, high = torch.tensor(problem.low).double(), torch.tensor(problem.high).double()
    dimension = len(problem.low)
    points = torch.quasirandom.SobolEngine(dimension, scramble=True, seed=seed).draw(2 * dimension).double()
    unit = torch.stack([torch.zeros(dimension), torch.ones(dimension)]).double()

    def measured(point: torch.Tensor) -> float:
        return -float(problem.value((low + point * (high - low)).tolist()))

    values = torch.tensor([[measured(point)] for point in points]).double()
    while len(points) < evaluations:
        model = SingleTaskGP(points, values, outcome_transform=Standardize(1))
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        acquisition = LogExpectedImprovement(model, best_f=values.max())
        found, _ = optimize_acqf(acquisition, unit, q=1, num_restarts=8, raw_samples=256)
        points = torch.cat([points, found])
        values = torch.cat([values, torch.tensor([[measured(found[0])]]).double()])


PEERS: dict[str, Run] = {
    **{f"optuna-{kind}": optuna_sampler(kind) for kind in ("tpe", "nsga2", "cmaes", "qmc", "gp")},
    **{f"nevergrad-{kind}": nevergrad_optimizer(kind) for kind in ("DE", "OnePlusOne", "NGOpt")},
    "skopt-gp": skopt_gp,
    "botorch-logei": botorch_logei,
    "hyperopt-anneal": hyperopt_anneal,
    "scipy-annealing": scipy_annealing,
}


def best_of(run: Run, problem: Problem, evaluations: int, seed: int) -> float:
    """Return the lowest of the first `evaluations` values that a peer asked for."""
    seen: list[float] = []

    def value(x) -> float:
        seen.append(float(problem.value([float(each) for each in x])))
        return seen[-1]

    run(Problem(problem.name, problem.low, problem.high, problem.integers, None, value), evaluations, seed)
    return min(seen[:evaluations])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=sorted(PEERS))
    parser.add_argument("suite")
    parser.add_argument("functions", type=numbers)
    parser.add_argument("instances", type=numbers)
    parser.add_argument("dimension", type=int)
    parser.add_argument("evaluations", type=int)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    found = {}
    for problem in problems(given.suite, given.functions, given.instances, given.dimension):
        seed = int(problem.name.split("/")[1])
        found[problem.name] = best_of(PEERS[given.peer], problem, given.evaluations, seed)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
