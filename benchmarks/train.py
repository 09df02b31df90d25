"""What does training on a cluster cost beside the bare frameworks on the same machine?

python benchmarks/train.py ddp [--rounds 5]       MLP 28-1024-1024-1 on two workers, against torchrun
python benchmarks/train.py submit [--rounds 5]    jobs/train.py submitted, to its first step, against a bare
                                                  TorchTrainer submitted the same way
python benchmarks/train.py xgboost [--rounds 3]   against plain xgboost 2.0.3 in one process, and against Ray
                                                  Train's XGBoostTrainer on xgboost 3.2, installed apart
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "platform"))
os.environ.setdefault("RAY_AUTH_MODE", "token")

import train_data  # noqa: E402
from common import Rounds, compare, console, environment, finish, run_json  # noqa: E402

from raymill.config import parse  # noqa: E402
from raymill.runs import Runs  # noqa: E402
from raymill.train.spec import TrainSpec  # noqa: E402

PEERS = ROOT / "benchmarks" / "train_peers.py"
BATCH_ROWS, EPOCHS = 4096, 3
BOOSTING_ROUNDS = 100
XGBOOST_3 = ("ray[train]==2.60.0", "xgboost==3.2.0", "pandas", "scikit-learn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("ddp", "submit", "xgboost"))
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raymill-bench-train-") as folder:
        globals()[options.what](Path(folder), options.rounds)


@contextmanager
def local_ray() -> Iterator[None]:
    import ray

    ray.init(
        address="local", num_cpus=3, include_dashboard=False, log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT / "platform")}},
    )  # fmt: skip
    yield
    ray.shutdown()


def train(document: dict[str, Any]) -> Any:
    from raymill.train.run import train as run_training

    return run_training(parse(TrainSpec, document))


def ddp(root: Path, rounds: int | None) -> None:
    train_data.write(root, train=80_000, validation=10_000, files=4, groups=2)
    waits: list[float] = []
    epochs: dict[str, list[float]] = {"torchrun": [], "raymill": []}

    def ours() -> float:
        options = {"hidden": [1024, 1024], "epochs": EPOCHS, "weight_decay": 0.0}
        run = f"ddp-{time.time_ns()}"
        train(train_data.spec(root, run, read={"batch_rows": BATCH_ROWS}, flavors={"torch": options}))
        points = Runs(str(root / "runs")).history(run).points
        steady = [point for point in points if point.epoch > 1]
        waits.append(statistics.median(point.wait_ms for point in steady))
        epochs["raymill"] += paces(steady)
        return statistics.median(paces(steady))

    def torchrun() -> float:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}",
            str(PEERS), "torchrun", str(root), str(BATCH_ROWS), str(EPOCHS),
        ]  # fmt: skip
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        line = next(line for line in done.stdout.splitlines() if line.startswith("{"))
        rates = json.loads(line)["rates"][1:]
        epochs["torchrun"] += rates
        return statistics.median(rates)

    with local_ray():
        found = compare({"torchrun": torchrun, "raymill": ours}, unit="rows/s", rounds=rounds or 5, warmup=1)
    found.show(f"MLP 28-1024-1024-1, 2 workers, batches of {BATCH_ROWS}", "torchrun")
    wait = statistics.median(waits)
    console.print(f"waited for data: {wait:.3f} ms a step, on the worker that waited longest")
    fastest = {name: max(rates) for name, rates in epochs.items()}
    console.print(f"fastest of {len(epochs['raymill'])} epochs each, rows/s: {fastest}")
    figures = {
        "ddp_vs_torchrun": round(found.ratio("raymill", "torchrun"), 3), "wait_ms": round(wait, 3),
        "fastest_vs_torchrun": round(fastest["raymill"] / fastest["torchrun"], 3),
    }  # fmt: skip
    finish("train_ddp", figures)


def paces(points: list[Any]) -> list[float]:
    """Return rows/s from the first to the last word of each epoch."""
    found = []
    for _, group in groupby(points, key=lambda point: point.epoch):
        inside = list(group)
        first, last = inside[0], inside[-1]
        found.append((last.rows - first.rows) / (last.seconds - first.seconds))
    return found


def submit(root: Path, rounds: int | None) -> None:
    """Both are jobs of one cluster; the clock starts before `ray job submit` does."""
    with cluster(root) as variables:
        prepare = ["jobs/prepare.py", "--config", "examples/flights/prepare.yaml"]
        submit_job(prepare, variables)

        def ours() -> float:
            run, started = f"submit-{time.time_ns()}", time.time()
            less = ["read.order=sampled", "read.options={fraction: 0.1}", "flavors.torch.epochs=1"]
            settings = [f"run={run}", "publish.label=null", *less]
            overrides = [part for setting in settings for part in ("--set", setting)]
            submit_job(["jobs/train.py", "--config", "examples/flights/train.yaml", *overrides], variables)
            return first_event(root / "storage" / "runs" / run) - started

        def bare() -> float:
            file, started = root / f"bare-{time.time_ns()}", time.time()
            submit_job([str(PEERS), "bare", str(file)], variables)
            return float(file.read_text()) - started

        found = compare({"bare TorchTrainer": bare, "raymill": ours}, unit="s", rounds=rounds or 5, warmup=1)
    found.show("from submission to the first step", "bare TorchTrainer")
    finish("train_submit", {"submit_vs_bare": round(found.ratio("raymill", "bare TorchTrainer"), 3)})


@contextmanager
def cluster(root: Path) -> Iterator[dict[str, str]]:
    """Start a cluster as `raymill up` does, on free ports, and yield the environment to submit in."""
    variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
        "RAYMILL_HOME": str(root / "home"), "RAYMILL_STORAGE": str(root / "storage"),
        "RAY_AUTH_TOKEN_PATH": str(root / "token"), "PYTHONPATH": str(ROOT / "platform"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [probe.getsockname()[1] for probe in (one, other)]
    command = ["raymill", "up", f"--dashboard-port={ports[0]}", f"--ray-port={ports[1]}"]
    up = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=True)
    exports = [line.removeprefix("export ").split("=", 1) for line in up.stdout.splitlines()]
    try:
        yield variables | dict(exports)
    finally:
        subprocess.run(["raymill", "down"], cwd=ROOT, env=variables, check=True, capture_output=True)


def submit_job(arguments: list[str], variables: dict[str, str]) -> None:
    line = ["ray", "job", "submit", "--working-dir", ".", "--", "python", *arguments]
    done = subprocess.run(line, cwd=ROOT, env=variables, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])


def first_event(run: Path) -> float:
    """Return when a run told of its first step: the time in the first scalar of its TensorBoard file."""
    data = next((run / "tensorboard").iterdir()).read_bytes()
    (length,) = struct.unpack_from("<Q", data)  # of the record before it, which names the format
    (seconds,) = struct.unpack_from("<d", data, 16 + length + 12 + 1)
    return float(seconds)


def xgboost(root: Path, rounds: int | None) -> None:
    train_data.write(root, train=1_000_000, validation=100_000, files=4, groups=5)
    seconds: dict[str, list[float]] = {}
    aucs: dict[str, float] = {}

    def peer(name: str, python: Path | str, what: str) -> Callable[[], float]:
        def run() -> float:
            told = run_json(python, PEERS, what, str(root), str(BOOSTING_ROUNDS))
            seconds.setdefault(name, []).append(told["seconds"])
            aucs[name] = told["auc"]
            return told["rate"]

        return run

    def ours() -> float:
        name, started = f"xgboost-{time.time_ns()}", time.perf_counter()
        options = {"rounds": BOOSTING_ROUNDS, "max_depth": 6, "learning_rate": 0.1}
        document = train_data.spec(root, name, flavor="xgboost", flavors={"xgboost": options})
        result = train(document)
        seconds.setdefault("raymill", []).append(time.perf_counter() - started)
        aucs["raymill"] = result.version.manifest.metrics["validation"]["auc"]
        last = Runs(str(root / "runs")).history(name).points[-1]
        return last.rows / last.seconds

    three = environment("xgboost3", XGBOOST_3)
    contenders = {
        "plain xgboost 2.0.3": peer("plain xgboost 2.0.3", sys.executable, "plain"),
        "plain xgboost 3.2": peer("plain xgboost 3.2", three, "plain"),
        "XGBoostTrainer, xgboost 3.2": peer("XGBoostTrainer, xgboost 3.2", three, "ray_train"),
        "raymill": ours,
    }
    with local_ray():
        found = compare(contenders, unit="rows/s", rounds=rounds or 3, warmup=1)
    show_xgboost(found, seconds, aucs)


def show_xgboost(found: Rounds, seconds: dict[str, list[float]], aucs: dict[str, float]) -> None:
    plain, trainer = "plain xgboost 2.0.3", "XGBoostTrainer, xgboost 3.2"
    found.show(f"boosting 1 M rows, {BOOSTING_ROUNDS} rounds of depth 6", plain)
    whole = Rounds({name: values[1:] for name, values in seconds.items()}, "s")
    whole.show("from Parquet to a booster; raymill: to a published version", plain)
    for name, auc in aucs.items():
        console.print(f"AUC {auc:.5f} {name}")
    figures = {
        "xgboost_vs_plain": round(found.ratio("raymill", plain), 3),
        "xgboost_ray_vs_train": round(found.ratio("raymill", trainer), 3),
        "plain_2_vs_plain_3": round(found.ratio(plain, "plain xgboost 3.2"), 3),
        "seconds_vs_plain": round(whole.ratio("raymill", plain), 3),
        "seconds_vs_train": round(whole.ratio("raymill", trainer), 3),
    }
    finish("train_xgboost", figures | {f"auc {name}": round(auc, 5) for name, auc in aucs.items()})


if __name__ == "__main__":
    main()
