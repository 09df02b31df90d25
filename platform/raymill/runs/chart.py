"""A run's loss curve as a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raymill.errors import NotFound, needs_extra
from raymill.runs.record import History, RunRecord

BLUE, ORANGE, GREY = "#1f6fb4", "#d9701e", "#667085"
SIZE_INCHES, DPI = (9.0, 5.0), 120


def draw(record: RunRecord, history: History, path: Path) -> Path:
    """Write the curve of a run to `path`: loss over rows, validation at each epoch's end; return the path.

    Raises:
        NotFound: the run has learned from nothing yet.
        Unavailable: matplotlib is not installed.
    """
    if not history.points and not history.epochs:
        raise NotFound(f"run {record.run!r} has no loss yet; it is {record.status}")
    with needs_extra("search"):
        from matplotlib.figure import Figure  # without pyplot: no display, no state shared by threads
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    _losses(axes, history)
    _validation(axes, history)
    published = f", version {record.version}" if record.version else ""
    axes.set_title(f"{record.run}: {record.flavor}, {record.status}{published}", loc="left", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _losses(axes: Any, history: History) -> None:
    if history.points:
        axes.plot(
            [point.rows for point in history.points],
            [point.loss for point in history.points],
            color=BLUE, linewidth=1.2, alpha=0.45, label="loss, about each second",
        )  # fmt: skip
    loss = next((name for name in ("loss", "train_logloss", "train_rmse") if _has(history, name)), None)
    if loss:
        rows, values = _epochs(history, loss)
        label = "loss, each epoch" if loss == "loss" else loss.replace("_", " ")
        axes.plot(rows, values, color=BLUE, marker="o", markersize=4, label=label)
    axes.set_xlabel("rows learned from" if history.points or _has(history, "rows") else "rounds")
    axes.set_ylabel("training loss", color=BLUE)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g} M" if value >= 1e5 else f"{value:g}")
    axes.grid(visible=True, color="#e4e7ec", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(left=0)


def _validation(axes: Any, history: History) -> None:
    names = ("validation_auc", "validation_accuracy", "validation_rmse")
    name = next((name for name in names if _has(history, name)), None)
    if name:
        right = axes.twinx()
        rows, values = _epochs(history, name)
        right.plot(rows, values, color=ORANGE, marker="s", markersize=5, label=name.replace("_", " "))
        right.set_ylabel(name.replace("_", " "), color=ORANGE)
        right.spines[["top", "left"]].set_visible(False)
        if len(values) <= 8:
            for x, y in zip(rows, values, strict=True):
                right.annotate(
                    f"{y:.4f}", (x, y), textcoords="offset points", xytext=(0, 8),
                    ha="right", fontsize=8, color=ORANGE,
                )  # fmt: skip
        right.margins(y=0.15)
    handles = [line for axis in axes.figure.axes for line in axis.get_lines()]
    axes.figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def _has(history: History, name: str) -> bool:
    return any(name in entry for entry in history.epochs)


def _epochs(history: History, name: str) -> tuple[list[float], list[float]]:
    """Return the rows learned from at each epoch's end, or the round's number; and the value there."""
    at, values, rows = [], [], 0.0
    for number, entry in enumerate(history.epochs, 1):
        rows += entry.get("rows", 0.0)
        if name in entry:
            at.append(rows or float(number))
            values.append(entry[name])
    return at, values
