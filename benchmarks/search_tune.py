"""What do our searchers cost in Ray Tune, and what do they find on the flights?

python benchmarks/search_tune.py overhead [--trials 200] [--rounds 3] [--peers default reused]
    Trials of a function that returns at once: ours through the bridge, study log included, against Tune's
    own random searcher, as Tune runs it by default and with its actors reused as ours are.

python benchmarks/search_tune.py flights [--trials 48] [--seeds 0 1 2]
    AUC on the validation month that each searcher finds for XGBoost, and the wall time of the study;
    Optuna's TPE through Tune runs the same trials. Needs $RAYMILL_STORAGE with the prepared flights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "platform"))
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import ray  # noqa: E402
from common import ENVIRONMENTS, compare, console, finish  # noqa: E402
from ray import tune  # noqa: E402
from rich.table import Table  # noqa: E402

from raymill import config  # noqa: E402
from raymill.search.header import StudyHeader  # noqa: E402
from raymill.search.study import Study  # noqa: E402
from raymill.search.tune import Placement, Running, run_study  # noqa: E402
from raymill.storage import locate  # noqa: E402
from raymill.train.run import check, make_job  # noqa: E402
from raymill.tune.plan import make_plan  # noqa: E402
from raymill.tune.run import NO_REPORTS  # noqa: E402
from raymill.tune.spec import TuneSpec  # noqa: E402
from raymill.tune.trial import TrialBase, run_trial  # noqa: E402

CONCURRENCY = 2
OPTUNA = (
    "optuna==5.0.0",
    "alembic==1.20.1",
    "colorlog==6.12.0",
    "Mako==1.4.3",
    "SQLAlchemy==2.1.9",
    "tqdm==4.70.1",
)
FLIGHTS_SPACE: dict[str, Any] = {
    "parameters": {
        "flavors.xgboost.max_depth": {"type": "int", "low": 2, "high": 7},
        "flavors.xgboost.rounds": {"type": "int", "low": 20, "high": 120},
        "flavors.xgboost.learning_rate": {"type": "float", "low": 0.02, "high": 0.5, "log": True},
        "flavors.xgboost.subsample": {"type": "float", "low": 0.4, "high": 1.0},
        "flavors.xgboost.colsample_bytree": {"type": "float", "low": 0.3, "high": 1.0},
        "flavors.xgboost.min_child_weight": {"type": "float", "low": 1.0, "high": 100.0, "log": True},
    }
}
WHERE = [["origin", "==", "LGA"]]  # a third of the training rows, so that 48 trials take a minute
SEARCHERS = ("random", "bayesian", "genetic", "annealing")
Found = tuple[float, float, float]
"""The best AUC, the seconds of the study, and the seconds of its trials added up."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("overhead", "flights"))
    parser.add_argument("--trials", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--peers", nargs="*", default=["default", "reused"], choices=("default", "reused"))
    parser.add_argument("--searchers", nargs="*", default=[*SEARCHERS, "optuna-tpe"])
    options = parser.parse_args()
    ray.init(
        address="local", num_cpus=CONCURRENCY, include_dashboard=False, log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT / "platform")}},
    )  # fmt: skip
    if options.what == "overhead":
        overhead(options.trials or 200, options.rounds, options.peers)
    else:
        flights(options.trials or 48, options.seeds, options.searchers)


# Overhead


def overhead(trials: int, rounds: int, peers: list[str]) -> None:
    contenders: dict[str, Callable[[], float]] = {
        f"Tune random, {peer}": lambda peer=peer: theirs_seconds(trials, reuse=peer == "reused")
        for peer in peers
    }
    ours_seconds(4)  # starts what a first trial on a cluster starts
    measured = compare(
        contenders | {"raymill random": lambda: ours_seconds(trials)}, unit="s", rounds=rounds, warmup=0
    )
    measured.show(f"{trials} trials that return at once, {CONCURRENCY} at a time", "raymill random")
    ratios = {peer: round(measured.ratio("raymill random", f"Tune random, {peer}"), 3) for peer in peers}
    harder = ratios.get("reused", ratios.get("default"))
    finish(
        "tune_overhead", {"tune_overhead": harder} | {f"to_{peer}": ratio for peer, ratio in ratios.items()}
    )


def theirs_seconds(trials: int, *, reuse: bool) -> float:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        tune.Tuner(
            tune.with_resources(at_once_theirs, {"CPU": 1}),
            param_space={"x": tune.uniform(0, 1)},
            tune_config=tune.TuneConfig(
                metric="score",
                mode="max",
                num_samples=trials,
                max_concurrent_trials=CONCURRENCY,
                reuse_actors=reuse,
            ),
            run_config=tune.RunConfig(name="theirs", storage_path=folder, verbose=0),
        ).fit()
    return time.perf_counter() - started


def ours_seconds(trials: int) -> float:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        header = StudyHeader.model_validate(
            {
                "space": {"parameters": {"x": {"type": "float", "low": 0, "high": 1}}},
                "stages": [{"searcher": "random", "trials": trials}],
                "objectives": [{"metric": "score", "mode": "max"}], "concurrency": CONCURRENCY,
            }
        )  # fmt: skip
        study = Study.open_or_create(locate(folder) / "study", header)
        run_study(study, at_once_ours, None, Placement(bundles=[{"CPU": 1}]), storage=locate(folder) / "tune")
        study.close()
    assert study.record.counts()["complete"] == trials
    return time.perf_counter() - started


def at_once_theirs(params: dict[str, Any]) -> None:
    tune.report({"score": params["x"]})


def at_once_ours(shared: None, running: Running) -> dict[str, float]:
    return {"score": running.params["x"]}


# Flights


def flights(trials: int, seeds: list[int], searchers: list[str]) -> None:
    os.chdir(ROOT)
    overrides = [
        "search.stages=[{searcher: random}]",
        f"space={json.dumps(FLIGHTS_SPACE)}",
        f"train.trials={json.dumps({'read.where': WHERE})}",
    ]
    plan = make_plan(config.load(TuneSpec, "examples/flights/tune.yaml", overrides))
    base = TrialBase("benchmark-", plan.trials, make_job(plan.base, check(plan.base)), NO_REPORTS)
    found: dict[str, list[Found]] = {name: [] for name in searchers}
    for seed in seeds:
        for name in searchers:
            run = optuna_tpe if name == "optuna-tpe" else ours
            found[name].append(run(name, base, trials, seed))
            auc, seconds, busy = found[name][-1]
            console.print(f"seed {seed} {name}: AUC {auc:.5f} in {seconds:.0f} s, trials {busy:.0f} s")
    table = Table("searcher", "mean AUC", *(f"seed {seed}" for seed in seeds), "seconds")
    for name, runs in found.items():
        aucs = [run[0] for run in runs]
        seconds = statistics.median(run[1] for run in runs)
        table.add_row(name, f"{statistics.mean(aucs):.5f}", *(f"{auc:.5f}" for auc in aucs), f"{seconds:.0f}")
    console.print(table)
    figures = {
        name: {
            "auc": statistics.mean(run[0] for run in runs),
            "seconds": statistics.median(run[1] for run in runs),
        }
        for name, runs in found.items()
    }
    finish("flights_search", figures)


def beside(requirements: Sequence[str]) -> None:
    """Put packages behind ours on this process's path: the driver's searcher, and what it lacks here."""
    folder = ENVIRONMENTS / "optuna"
    if not folder.exists():
        console.print(f"installing {', '.join(requirements)} into {folder}")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            folder,
            *requirements,
        ]
        subprocess.run(command, check=True)
    sys.path.append(str(folder))


def define_space(suggest: Any) -> None:
    """Define Optuna's space; at the top of the module, for Tune pickles it."""
    for key, parameter in FLIGHTS_SPACE["parameters"].items():
        log = parameter.get("log", False)
        if parameter["type"] == "int":
            suggest.suggest_int(key, parameter["low"], parameter["high"], log=log)
        else:
            suggest.suggest_float(key, parameter["low"], parameter["high"], log=log)


def ours(name: str, base: TrialBase, trials: int, seed: int) -> Found:
    """Return the best AUC of one of our searchers, and the seconds of its study."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        header = StudyHeader.model_validate(
            {
                "space": FLIGHTS_SPACE, "stages": [{"searcher": name, "trials": trials}], "seed": seed,
                "objectives": [{"metric": "validation_auc", "mode": "max"}], "concurrency": CONCURRENCY,
                "slack": CONCURRENCY // 2,
            }
        )  # fmt: skip
        study = Study.open_or_create(locate(folder) / "study", header)
        run_study(study, run_trial, base, Placement(bundles=[{"CPU": 1}]), storage=locate(folder) / "tune")
        best = study.record.best()
        study.close()
    assert best is not None
    busy = sum(trial.seconds or 0.0 for trial in study.record.trials)
    return best.metrics["validation_auc"], time.perf_counter() - started, busy


def optuna_tpe(name: str, base: TrialBase, trials: int, seed: int) -> Found:
    """Return the same of Optuna's TPE through Tune, on the same trials, its actors reused as ours are."""
    beside(OPTUNA)
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shared = ray.put(base)

    def trial(params: dict[str, Any]) -> None:
        running = Running(0, dict(params), lambda metrics, write=None: None, None)
        tune.report(run_trial(ray.get(shared), running))

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        results = tune.Tuner(
            tune.with_resources(trial, {"CPU": 1}),
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(
                    define_space, metric="validation_auc", mode="max",
                    sampler=optuna.samplers.TPESampler(seed=seed),
                ),
                num_samples=trials, max_concurrent_trials=CONCURRENCY, reuse_actors=True,
            ),
            run_config=tune.RunConfig(name="optuna", storage_path=folder, verbose=0),
        ).fit()  # fmt: skip
        told = [result.metrics for result in results if result.metrics]
    busy = sum(metrics["time_total_s"] for metrics in told)
    return max(metrics["validation_auc"] for metrics in told), time.perf_counter() - started, busy


if __name__ == "__main__":
    main()
