"""How close do the searchers come, against the best of their kind?

COCO's `bbob` (24 noiseless functions, box [-5, 5]): 100 evaluations in five dimensions, one after another
and eight at a time. The figure is the mean over functions and instances of log10(best value - optimum),
floored at 1e-8; lower is better. `--mixint` adds `bbob-mixint` (four of five coordinates are integers),
where COCO tells no optimum: there the figure is the share of problems on which a searcher finds a lower
value than Optuna's TPE.

python benchmarks/search.py --mixint --overhead       all of it (bayesian takes most of the time)
python benchmarks/search.py --searchers genetic --functions 1-5 --instances 6-8 --peers
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from common import HERE, console, environment, finish, run_json
from rich.table import Table
from search_coco import Problem, numbers, problems

from raymill.search import SEARCHERS, Space

REQUIREMENTS = [
    "coco-experiment==2.8.2", "optuna", "nevergrad", "hyperopt", "cmaes", "scipy", "setuptools<81",
    "torch==2.13.0", "botorch", "scikit-optimize",
]  # fmt: skip
OURS = ("random", "annealing", "genetic", "bayesian")
PEERS = (
    "optuna-qmc", "hyperopt-anneal", "scipy-annealing", "nevergrad-OnePlusOne", "nevergrad-DE",
    "optuna-nsga2", "optuna-cmaes", "optuna-tpe", "nevergrad-NGOpt", "optuna-gp", "skopt-gp",
    "botorch-logei",
)  # fmt: skip
OPTIONS = {"random": {"sequence": "sobol"}}
PARALLEL = 8
FLOOR = 1e-8

Best = Mapping[str, float]
"""Problem to the lowest value found."""


@dataclass
class Timed:
    """Lowest values, and the seconds of each suggestion made with all but one result known."""

    best: dict[str, float] = field(default_factory=dict)
    suggest_s: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--searchers", nargs="*", default=list(OURS), choices=sorted(SEARCHERS))
    parser.add_argument("--peers", nargs="*", default=list(PEERS))
    parser.add_argument("--functions", type=numbers, default="1-24")
    parser.add_argument("--instances", type=numbers, default="1-5")
    parser.add_argument("--dimension", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--parallel", type=int, nargs="*", default=[1, PARALLEL])
    parser.add_argument("--mixint", action="store_true", help="bbob-mixint too, against Optuna's TPE")
    parser.add_argument("--overhead", action="store_true", help="the overhead in Tune too (search_tune.py)")
    given = parser.parse_args()
    figures = regrets(given)
    if given.mixint:
        figures |= mixed(given)
    if given.overhead:
        arguments = ("overhead", "--peers", "reused", "--rounds", "1")
        measured = run_json(sys.executable, HERE / "search_tune.py", *arguments)
        figures["tune_overhead"] = measured["tune_overhead"]
    finish("search", figures)


def regrets(given: argparse.Namespace) -> dict[str, float]:
    """Run bbob, print the table, and return the figures."""
    optima = {each.name: each.optimum or 0.0 for each in cases("bbob", given)}
    table = Table("searcher", "at a time", "mean log10 regret", "s a suggestion", title=title(given))
    figures: dict[str, float] = {}
    for name in given.searchers:
        by_parallel = {}
        for parallel in given.parallel:
            found = ours(name, "bbob", given, parallel)
            by_parallel[parallel] = regret(found.best, optima)
            seconds = statistics.median(found.suggest_s)
            table.add_row(f"raymill {name}", str(parallel), f"{by_parallel[parallel]:.3f}", f"{seconds:.4f}")
            if parallel == 1:
                figures[name] = round(by_parallel[1], 3)
                figures["suggest_s"] = round(max(seconds, figures.get("suggest_s", 0.0)), 4)
        if {1, PARALLEL} <= by_parallel.keys():
            figures[f"parallel_gap_{name}"] = round(by_parallel[PARALLEL] - by_parallel[1], 3)
    for peer in given.peers:
        figures[peer] = round(regret(theirs(peer, "bbob", given), optima), 3)
        table.add_row(peer, "1", f"{figures[peer]:.3f}", "")
    console.print(table)
    gaps = [value for name, value in figures.items() if name.startswith("parallel_gap_")]
    return figures | ({"parallel_gap": max(gaps)} if gaps else {})


def mixed(given: argparse.Namespace) -> dict[str, float]:
    """Run bbob-mixint and return the share of problems won against Optuna's TPE, a tie counting half."""
    tpe = theirs("optuna-tpe", "bbob-mixint", given)
    table = Table("searcher", "problems won against optuna-tpe", title="bbob-mixint, " + title(given))
    figures = {}
    for name in given.searchers:
        best = ours(name, "bbob-mixint", given, 1).best
        won = statistics.mean((best[case] < tpe[case]) + (best[case] == tpe[case]) / 2 for case in tpe)
        figures[f"mixint_won_{name}"] = round(won, 3)
        table.add_row(f"raymill {name}", f"{won:.0%} of {len(tpe)}")
    console.print(table)
    return figures


def cases(suite: str, given: argparse.Namespace) -> list[Problem]:
    return list(problems(suite, given.functions, given.instances, given.dimension))


def title(given: argparse.Namespace) -> str:
    return (
        f"D={given.dimension}, {given.evaluations} evaluations, {len(given.functions)} functions, "
        f"instances {given.instances}"
    )


def regret(best: Best, optima: Best) -> float:
    return statistics.mean(math.log10(max(best[case] - optima[case], FLOOR)) for case in optima)


def ours(name: str, suite: str, given: argparse.Namespace, parallel: int) -> Timed:
    """Run a searcher, `parallel` suggestions pending at a time, told in the order asked."""
    timed = Timed()
    for problem in problems(suite, given.functions, given.instances, given.dimension):
        searcher = SEARCHERS.load(name)(
            space_of(problem), seed=int(problem.name.split("/")[1]), concurrency=parallel,
            trials=given.evaluations, options=OPTIONS.get(name),
        )  # fmt: skip
        waiting: list[tuple[int, float]] = []
        for _ in range(given.evaluations):
            if len(waiting) == parallel:
                searcher.tell(*waiting.pop(0))
            started = time.perf_counter()
            suggestion = searcher.ask()
            seconds = time.perf_counter() - started
            value = float(problem.value(np.array(list(suggestion.params.values()), float)))
            waiting.append((suggestion.number, value))
            timed.best[problem.name] = min(value, timed.best.get(problem.name, math.inf))
        timed.suggest_s.append(seconds)
    return timed


def space_of(problem: Problem) -> Space:
    ends = enumerate(zip(problem.low, problem.high, strict=True))
    return Space.parse(
        {
            "parameters": {
                f"x{at}": {"type": "int", "low": int(low), "high": int(high)}
                if at < problem.integers
                else {"type": "float", "low": low, "high": high}
                for at, (low, high) in ends
            }
        }
    )


def theirs(peer: str, suite: str, given: argparse.Namespace) -> Best:
    """Run a peer in an environment of its own."""
    listed = (",".join(map(str, each)) for each in (given.functions, given.instances))
    python = environment("search", REQUIREMENTS)
    found: Best = run_json(
        python, HERE / "search_peers.py", peer, suite, *listed, str(given.dimension), str(given.evaluations)
    )
    return found


if __name__ == "__main__":
    main()
