"""`raymill runs`: what was trained, how it went, its loss curve. Reads storage and needs no cluster."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table

from raymill import local_cluster
from raymill.entry import errors_shown
from raymill.runs import History, RunRecord, Runs
from raymill.runs.chart import draw

app = typer.Typer(no_args_is_help=True, help="List training runs, show one with its loss curve.")
Root = Annotated[str, typer.Option("--runs", help="Where runs are kept; relative to $RAYMILL_STORAGE.")]


@app.command("list")
def list_runs(
    runs: Root = "runs",
    model: Annotated[str | None, typer.Option(help="Runs of this model only.")] = None,
) -> None:
    """Show every run, newest first: how it stands, what it learned from, metrics, and its version."""
    with errors_shown():
        found = _runs(runs)
        records = [record for record in map(found.record, found.names()) if model in (None, record.model)]
        table = Table("run", "model", "flavor", "status", "started (UTC)", "rows", "metrics", "version")
        for record in sorted(records, key=lambda record: record.started, reverse=True):
            history = found.history(record.run)
            table.add_row(
                record.run, record.model, record.flavor, _status(found, record), record.started[:16],
                _rows(history), _metrics(record, history), str(record.version or ""),
            )  # fmt: skip
    Console().print(table)


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="Name of the run.")],
    runs: Root = "runs",
    png: Annotated[
        Path | None, typer.Option(help="Where to write the loss curve; default: RUN.png here.")
    ] = None,
) -> None:
    """Print a run's record with its spec and epochs as JSON, and write its loss curve as a PNG."""
    with errors_shown():
        found = _runs(runs)
        record, history = found.record(run), found.history(run)
        shown = record.model_dump(mode="json") | {"epochs": history.epochs}
        Console().print_json(orjson.dumps(shown).decode())
        if history.points or history.epochs:
            typer.echo(f"loss curve: {draw(record, history, png or Path(f'{run}.png'))}", err=True)
        else:
            typer.echo("no loss curve: the run has learned from nothing yet", err=True)


def _runs(root: str) -> Runs:
    """Return the runs where jobs of the local cluster put them, if one is there."""
    cluster = local_cluster.running()
    if cluster:
        local_cluster.use_storage(cluster)
    return Runs(root)


def _status(runs: Runs, record: RunRecord) -> str:
    """Return how a run stands; a job that died could not write so, but it has fallen silent."""
    if record.status != "running":
        return record.status
    quiet = datetime.now(UTC) - runs.heard_from(record)
    return "running" if quiet.total_seconds() < 120 else f"silent for {quiet.total_seconds() / 60:,.0f} min"


def _rows(history: History) -> str:
    rows = history.points[-1].rows if history.points else sum(e.get("rows", 0.0) for e in history.epochs)
    return f"{rows:,.0f}" if rows else ""


def _metrics(record: RunRecord, history: History) -> str:
    """Return the published version's metrics, or the last epoch's."""
    if record.metrics:
        return "\n".join(
            f"{role}: " + ", ".join(f"{name} {value:.4f}" for name, value in values.items())
            for role, values in record.metrics.items()
        )
    if record.error:
        return record.error
    left_out = ("epoch", "round", "rows", "seconds")
    last = history.epochs[-1] if history.epochs else {}
    return ", ".join(f"{name} {value:.4f}" for name, value in last.items() if name not in left_out)
