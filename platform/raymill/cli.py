"""The `raymill` command: the local cluster, training runs, the model repository, studies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from raymill import __version__, local_cluster, runs_cli, study_cli
from raymill.entry import errors_shown
from raymill.errors import Corrupt
from raymill.repo import Repository

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__)
models = typer.Typer(no_args_is_help=True, help="List, show and label published models.")
app.add_typer(models, name="models")
app.add_typer(study_cli.app, name="study")
app.add_typer(runs_cli.app, name="runs")
console = Console()

Root = Annotated[str, typer.Option("--repository", help="Repository root; relative to $RAYMILL_STORAGE.")]
Model = Annotated[str, typer.Argument(help="Model name.")]
Label = Annotated[str, typer.Argument(help="Label, such as stable or canary.")]


@app.command()
def up(
    dashboard_port: Annotated[
        int, typer.Option(help="Ray dashboard and job submission.", envvar="RAYMILL_DASHBOARD_PORT")
    ] = 8265,
    ray_port: Annotated[int, typer.Option(help="Ray's own port.", envvar="RAYMILL_RAY_PORT")] = 6379,
    cpus: Annotated[
        int | None, typer.Option(help="Logical CPUs; default: one more than the machine's.")
    ] = None,
) -> None:
    """Start a Ray cluster on this machine; prints the exports that submitting needs."""
    with errors_shown():
        cluster = local_cluster.up(dashboard_port=dashboard_port, ray_port=ray_port, cpus=cpus)
    for name, value in cluster.exports().items():
        typer.echo(f"export {name}={value}")


@app.command()
def down() -> None:
    """Stop the cluster that `raymill up` started here, and nothing else."""
    with errors_shown():
        cluster = local_cluster.down()
    typer.echo(f"stopped {cluster.dashboard}" if cluster else "no local cluster is running")


@app.command()
def version() -> None:
    """Print Raymill's version."""
    typer.echo(__version__)


@models.command("list")
def list_models(repository: Root = "models") -> None:
    """Show every model with its newest version, metrics and labels."""
    with errors_shown():
        found = _repository(repository)
        table = Table("model", "versions", "newest", "flavor", "metrics", "labels")
        for name in found.models():
            numbers = found.versions(name)
            counts = (name, str(len(numbers)), str(numbers[-1]))
            try:
                manifest = found.version(name, numbers[-1]).manifest
                labels = " ".join(f"{label}={number}" for label, number in found.labels(name).items())
                table.add_row(*counts, manifest.flavor, _metrics(manifest.metrics), labels)
            except Corrupt as error:  # others are listed all the same
                table.add_row(*counts, "damaged")
                typer.echo(f"{name}: {error}", err=True)
    console.print(table)


@models.command()
def show(
    model: Model,
    wanted: Annotated[str, typer.Argument(help="Version number, label or latest.")] = "latest",
    repository: Root = "models",
) -> None:
    """Print a version's manifest: signature, metrics, lineage, files."""
    with errors_shown():
        found = _repository(repository)
        version = found.version(model, found.resolve(model, wanted))
    console.print_json(version.manifest.model_dump_json())


@models.command()
def label(model: Model, label: Label, wanted: str, repository: Root = "models") -> None:
    """Point a label at a version; servers that follow it change over."""
    with errors_shown():
        event = _repository(repository).label(model, label, wanted)
    typer.echo(f"{model}: {event.label} -> version {event.version}")


@models.command()
def rollback(model: Model, label: Label, repository: Root = "models") -> None:
    """Point a label back at the version it had before."""
    with errors_shown():
        event = _repository(repository).rollback(model, label)
    typer.echo(f"{model}: {event.label} -> version {event.version}")


@models.command()
def history(model: Model, label: Label, repository: Root = "models") -> None:
    """Show every move of a label, oldest first."""
    with errors_shown():
        events = _repository(repository).history(model, label)
    table = Table("at (UTC)", "version", "by")
    for event in events:
        table.add_row(event.at, str(event.version), event.by)
    console.print(table)


def _repository(root: str) -> Repository:
    """Open a repository where jobs of the local cluster put it, if one runs here."""
    cluster = local_cluster.running()
    if cluster:
        local_cluster.use_storage(cluster)
    return Repository(root)


def _metrics(metrics: dict[str, dict[str, float]]) -> str:
    return "\n".join(
        f"{role}: " + ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        for role, values in metrics.items()
    )


main: Callable[[], None] = app
