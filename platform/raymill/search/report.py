"""A study as files: PNG plots, and one HTML page that needs nothing else, not even a network."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import Any

import yaml

from raymill.config import with_values
from raymill.search.plots import importance_of, plots
from raymill.search.record import Record, Trial
from raymill.search.watch import short, stage_name, value_text
from raymill.storage import Location

DPI = 130
TITLES = {
    "history": "How the objective went",
    "importance": "Which parameters decided",
    "parallel": "All trials at once",
    "slices": "Each parameter by itself",
    "pareto": "What can be had of both objectives",
}


def best_document(name: str, record: Record, trial: Trial) -> dict[str, Any]:
    """Return the spec that a study tunes, with the parameters of a trial, and named as their source."""
    return with_values(record.header.meta["train"], {**trial.params, "study": f"{name}/{trial.number}"})


def write_report(name: str, record: Record, folder: Location) -> list[Location]:
    """Write `<plot>.png` of each plot that the study has data for, and `report.html`; return the files.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    folder.make_directory()
    pictures = draw(record)
    written = []
    for plot, data in pictures.items():
        file = folder / f"{plot}.png"
        file.replace_bytes(data)
        written.append(file)
    page = folder / "report.html"
    page.replace_bytes(html(name, record, pictures).encode())
    return [page, *written]


def draw(record: Record) -> dict[str, bytes]:
    """Return the PNG of each plot that the study has data for."""
    drawn = {}
    for name, plot in plots().items():
        figure = plot(record)
        if figure is not None:
            stream = io.BytesIO()
            figure.savefig(stream, format="png", dpi=DPI)
            drawn[name] = stream.getvalue()
    return drawn


def html(name: str, record: Record, pictures: dict[str, bytes]) -> str:
    """Return the page: what was best, how to train with it, the plots, every trial."""
    figures = "".join(
        f'<figure><h2>{escape(title)}</h2><img alt="{escape(title)}" src="data:image/png;base64,'
        f'{base64.b64encode(pictures[plot]).decode()}"></figure>'
        for plot, title in TITLES.items()
        if plot in pictures
    )
    return _PAGE.format(
        name=escape(name),
        summary=_summary(record),
        best=_best(record),
        figures=figures,
        trials=_trials(record),
    )


def _summary(record: Record) -> str:
    header, counts = record.header, {name: count for name, count in record.counts().items() if count}
    cells = {
        "trials": len(record.trials), **counts,
        "objective": ", ".join(f"{objective.mode} {objective.metric}" for objective in header.objectives),
        "searchers": ", then ".join(stage.searcher for stage in header.stages),
        "at once": header.concurrency, "seed": header.seed,
        "seconds of trials": f"{sum(trial.seconds or 0.0 for trial in record.trials):.0f}",
    }  # fmt: skip
    return "".join(
        f"<div><b>{escape(str(value))}</b><span>{escape(key)}</span></div>" for key, value in cells.items()
    )


def _best(record: Record) -> str:
    best = record.best()
    if best is None:
        return "<p>No trial has succeeded yet.</p>"
    weights = importance_of(record)
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value_text(value))}</td>"
        f"<td>{f'{weights[name]:.0%}' if name in weights else ''}</td></tr>"
        for name, value in best.params.items()
    )
    values = ", ".join(
        f"{escape(objective.metric)} <b>{best.metrics[objective.metric]:.5g}</b>"
        for objective in record.header.objectives
    )
    spec = escape(yaml.safe_dump(best.params, sort_keys=False))
    return (
        f"<p>Trial {best.number} of {escape(stage_name(record, best))}: {values}</p>"
        f"<table><tr><th>parameter</th><th>value</th><th>importance</th></tr>{rows}</table>"
        f"<details><summary>with all digits</summary><pre>{spec}</pre></details>"
    )


def _trials(record: Record) -> str:
    names = list(record.header.space.parameters)
    metrics = [objective.metric for objective in record.header.objectives]
    titles = ("trial", "searcher", "status", *metrics, "seconds", *map(short, names))
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    best = record.best()
    rows = "".join(_row(record, trial, names, metrics, marked=trial is best) for trial in record.trials)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _row(record: Record, trial: Trial, names: list[str], metrics: list[str], *, marked: bool) -> str:
    cells = [
        str(trial.number), stage_name(record, trial), trial.status,
        *(value_text(trial.metrics.get(metric)) for metric in metrics),
        "" if trial.seconds is None else f"{trial.seconds:.1f}",
        *(value_text(trial.params.get(name)) for name in names),
    ]  # fmt: skip
    attributes = ' class="best"' if marked else ""
    attributes += f' title="{escape(trial.error)}"' if trial.error else ""
    return f"<tr{attributes}>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>study {name}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 1040px; margin: 2rem auto;
  padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.05rem; margin: 2rem 0 .5rem; }}
.summary {{ display: flex; flex-wrap: wrap; gap: .4rem 2rem; padding: .8rem 0;
  border-block: 1px solid #e4e7eb; }}
.summary div {{ display: flex; flex-direction: column; }}
.summary span {{ color: #616e7c; font-size: .8rem; }}
figure {{ margin: 0; }} img {{ max-width: 100%; height: auto; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #e4e7eb;
  white-space: nowrap; }}
.best td {{ color: #c2410c; font-weight: 600; }}
pre {{ background: #f5f7fa; padding: .8rem; overflow-x: auto; }}
</style></head><body>
<h1>Study {name}</h1><div class="summary">{summary}</div>
<h2>Best</h2>{best}{figures}
<h2>Trials</h2><div class="wide">{trials}</div>
</body></html>
"""
