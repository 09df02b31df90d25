"""`raymill study`: what studies found, while they run and afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from raymill import local_cluster
from raymill.entry import errors_shown
from raymill.errors import NotFound
from raymill.search.record import Record
from raymill.search.report import best_document, write_report
from raymill.search.study import HEADER_FILE, Study
from raymill.search.watch import params_text, stage_name, study_table, value_text
from raymill.storage import Location, locate

app = typer.Typer(no_args_is_help=True, help="List and show hyper-parameter studies.")
console = Console()

Root = Annotated[str, typer.Option("--studies", help="Where studies lie; relative to $RAYMILL_STORAGE.")]


@app.command("list")
def list_studies(studies: Root = "studies") -> None:
    """Show every study with its trials and its best."""
    table = Table("study", "searchers", "trials", "objective", "best")
    with errors_shown():
        for folder in _root(studies).children():
            if (folder / HEADER_FILE).exists():
                table.add_row(folder.name, *_row(Study.read(folder)))
    console.print(table)


@app.command()
def show(
    study: Annotated[str, typer.Argument(help="Study name.")],
    out: Annotated[
        Path | None, typer.Option(help="Write the best's train spec here, for jobs/train.py.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write plots and report.html into this folder.")] = None,
    trial: Annotated[
        int | None, typer.Option(help="Take this trial's parameters instead of the best.")
    ] = None,
    studies: Root = "studies",
) -> None:
    """Show a study's best trials; write its best spec, plots and report."""
    with errors_shown():
        record = Study.read(_root(studies) / study)
        console.print(study_table(study, record))
        _print_front(record)
        if out:
            out.write_text(_best_spec(study, record, trial), encoding="utf-8")
            console.print(f"{out}: train with jobs/train.py --config {out}", highlight=False)
        if report:
            for file in write_report(study, record, locate(report.absolute())):
                console.print(file.uri, highlight=False, soft_wrap=True)


def _row(record: Record) -> list[str]:
    best = record.best()
    metric = record.header.objectives[0]
    counts = ", ".join(f"{count} {status}" for status, count in record.counts().items() if count)
    return [
        ", ".join(stage.searcher for stage in record.header.stages),
        counts,
        f"{metric.mode} {metric.metric}",
        value_text(best.metrics[metric.metric]) if best else "",
    ]


def _print_front(record: Record) -> None:
    if len(record.header.objectives) < 2:
        return
    metrics = [objective.metric for objective in record.header.objectives]
    table = Table("trial", "searcher", *metrics, "parameters", title="Pareto front")
    for trial in record.pareto():
        values = [value_text(trial.metrics[metric]) for metric in metrics]
        table.add_row(str(trial.number), stage_name(record, trial), *values, params_text(trial.params))
    console.print(table)


def _best_spec(study: str, record: Record, number: int | None) -> str:
    """Return the YAML of the train spec with the parameters of a trial, by default of the best."""
    chosen = record.best() if number is None else record.trial(number)
    if chosen is None:
        raise NotFound(f"study {study!r} has no trial that succeeded; look at `raymill study show {study}`")
    document = best_document(study, record, chosen)
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _root(studies: str) -> Location:
    """Open studies where jobs of the local cluster put them, if one runs here."""
    cluster = local_cluster.running()
    if cluster:
        local_cluster.use_storage(cluster)
    return locate(studies)
