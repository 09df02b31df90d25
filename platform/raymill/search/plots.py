"""Pictures of a study: history, parallel coordinates, importance, slices, Pareto front (matplotlib)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from raymill.errors import needs_extra
from raymill.search.importance import importance
from raymill.search.record import Record, Trial
from raymill.search.watch import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, ACCENT, GRID = "#1f2933", "#9aa5b1", "#c2410c", "#e4e7eb"
STAGES = ("#2563eb", "#0d9488", "#9333ea", "#ca8a04", "#64748b")
COLUMNS = 3


def plots() -> dict[str, Callable[[Record], Figure | None]]:
    """Return the pictures by name; one returns None where the study has nothing to show in it."""
    return {
        "history": history,
        "parallel": parallel,
        "importance": importances,
        "slices": slices,
        "pareto": pareto,
    }


def history(record: Record) -> Figure | None:
    """Each trial's objective in order, by stage, and the best so far."""
    trials = _told(record)
    if not trials:
        return None
    figure, axes = _figure(9, 4.2)
    metric, mode = _objective(record)
    for stage in sorted({trial.stage for trial in trials}):
        of_stage = [trial for trial in trials if trial.stage == stage]
        axes.scatter(
            [trial.number for trial in of_stage], [trial.metrics[metric] for trial in of_stage],
            s=26, color=STAGES[stage % len(STAGES)], label=record.header.stages[stage].searcher, zorder=3,
        )  # fmt: skip
    values_N = np.array([trial.metrics[metric] for trial in trials])
    best_N = np.maximum.accumulate(values_N) if mode == "max" else np.minimum.accumulate(values_N)
    axes.step(
        [trial.number for trial in trials], best_N, where="post", color=ACCENT, lw=1.6, label="best so far"
    )
    axes.set_xlabel("trial")
    axes.set_ylabel(metric)
    axes.legend(frameon=False, loc="best")
    return figure


def parallel(record: Record) -> Figure | None:
    """One line a trial through its parameters, coloured by the objective; the best one is drawn last."""
    trials = _told(record)
    names = _varied(record, trials)
    if len(trials) < 2 or not names:
        return None
    figure, axes = _figure(max(7.0, 1.9 * (len(names) + 1)), 4.6)
    metric, mode = _objective(record)
    values_N = np.array([trial.metrics[metric] for trial in trials])
    low, high = float(values_N.min()), float(values_N.max())
    scaled_N = (values_N - low) / (high - low) if high > low else np.full(len(values_N), 0.5)
    good_N = scaled_N if mode == "max" else 1 - scaled_N
    from matplotlib import colormaps

    for at in np.argsort(good_N, kind="stable"):
        unit = np.array([*(_unit(record, name, trials[at]) for name in names), scaled_N[at]])
        there = np.flatnonzero(~np.isnan(unit))  # a parameter that does not exist there is passed by
        is_best = at == np.argmax(good_N)
        axes.plot(
            there, unit[there],
            color=ACCENT if is_best else colormaps["Blues"](0.25 + 0.7 * good_N[at]),
            lw=2.4 if is_best else 1.1, alpha=1.0 if is_best else 0.7, zorder=3 if is_best else 2,
        )  # fmt: skip
    axes.set_xticks(range(len(names) + 1), [*(short(name) for name in names), metric])
    axes.set_yticks([])
    axes.set_ylim(-0.12, 1.1)
    axes.grid(axis="x", color=GRID, lw=1.2)
    for column, (bottom, top) in enumerate(
        [*(_ends(record, name) for name in names), (f"{low:.4g}", f"{high:.4g}")]
    ):
        axes.text(column, -0.06, bottom, ha="center", va="top", fontsize=8, color=INK)
        axes.text(column, 1.03, top, ha="center", va="bottom", fontsize=8, color=INK)
    return figure


def importances(record: Record) -> Figure | None:
    """How much each parameter decided over being among the best quarter of the trials."""
    found = importance_of(record)
    if not any(found.values()):
        return None
    figure, axes = _figure(8, 0.9 + 0.42 * len(found))
    ranked = sorted(found.items(), key=lambda item: item[1])
    bars = axes.barh(
        [short(name) for name, _ in ranked], [value for _, value in ranked], color=STAGES[0], height=0.6
    )
    axes.bar_label(bars, [f"{value:.0%}" for _, value in ranked], padding=4, color=INK, fontsize=9)
    axes.set_xlim(0, max(found.values()) * 1.15)
    axes.set_xlabel("importance (PED-ANOVA, best quarter against all trials)")
    axes.grid(axis="y", visible=False)
    return figure


def slices(record: Record) -> Figure | None:
    """The objective against each parameter, coloured by when the trial ran."""
    trials = _told(record)
    names = _varied(record, trials)
    if not names:
        return None
    rows = -(-len(names) // COLUMNS)
    columns = min(COLUMNS, len(names))
    figure, grid = _figures(3.6 * columns, 3.0 * rows, rows, columns)
    metric, _ = _objective(record)
    for name, axes in zip(names, grid, strict=False):
        shown = [trial for trial in trials if name in trial.params]
        xs, labels = _axis(record, name, shown)
        axes.scatter(
            xs, [trial.metrics[metric] for trial in shown], c=[trial.number for trial in shown],
            cmap="Blues", vmin=-len(trials) / 3, s=22, zorder=3,
        )  # fmt: skip
        if labels:
            axes.set_xticks(range(len(labels)), labels, fontsize=8)
        elif getattr(record.header.space.parameters[name], "log", False):
            _log_ticks(axes, xs)
        elif record.header.space.parameters[name].levels is not None:
            axes.locator_params(axis="x", integer=True)
        axes.set_xlabel(short(name))
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    for axes in grid[::columns]:
        axes.set_ylabel(metric)
    return figure


def pareto(record: Record) -> Figure | None:
    """All trials over two objectives, with the front of those that none beats in both."""
    if len(record.header.objectives) < 2:
        return None
    trials, front = _told(record), record.pareto()
    if not front:
        return None
    first, second = (objective.metric for objective in record.header.objectives[:2])
    figure, axes = _figure(7.5, 4.6)
    axes.scatter(
        [t.metrics[first] for t in trials],
        [t.metrics[second] for t in trials],
        s=24,
        color=MUTED,
        label="trials",
    )
    ordered = sorted(front, key=lambda trial: trial.metrics[first])
    axes.plot(
        [t.metrics[first] for t in ordered], [t.metrics[second] for t in ordered],
        "-o", color=ACCENT, ms=5, lw=1.4, label="Pareto front", zorder=3,
    )  # fmt: skip
    for trial in ordered:
        axes.annotate(
            str(trial.number), (trial.metrics[first], trial.metrics[second]), xytext=(4, 5),
            textcoords="offset points", fontsize=8, color=INK,
        )  # fmt: skip
    axes.set_xlabel(first)
    axes.set_ylabel(second)
    axes.legend(frameon=False)
    return figure


def importance_of(record: Record) -> dict[str, float]:
    """Return each varied parameter's importance for the first objective; {} with too few trials."""
    trials = _told(record)
    metric, mode = _objective(record)
    names = _varied(record, trials)
    losses_N = np.array([trial.metrics[metric] for trial in trials]) * (-1.0 if mode == "max" else 1.0)
    units = {name: np.array([_unit(record, name, trial) for trial in trials]) for name in names}
    return importance(units, losses_N, {name: record.header.space.parameters[name].levels for name in names})


def _objective(record: Record) -> tuple[str, str]:
    first = record.header.objectives[0]
    return first.metric, first.mode


def _told(record: Record) -> list[Trial]:
    """Return the trials with a finite first objective, in order."""
    metric, _ = _objective(record)
    return [trial for trial in record.trials if np.isfinite(trial.metrics.get(metric, np.nan))]


def _varied(record: Record, trials: list[Trial]) -> list[str]:
    """Return the parameters that have more than one value in these trials, in the space's order."""
    return [
        name
        for name in record.header.space.parameters
        if len({repr(trial.params[name]) for trial in trials if name in trial.params}) > 1
    ]


def _unit(record: Record, name: str, trial: Trial) -> float:
    """Return a trial's coordinate of a parameter in [0, 1]; NaN where it has none, or one out of range."""
    parameter = record.header.space.parameters[name]
    if name not in trial.params or not parameter.contains(trial.params[name]):
        return float("nan")
    return float(parameter.encode(trial.params[name]))


def _ends(record: Record, name: str) -> tuple[str, str]:
    parameter = record.header.space.parameters[name]
    low, high = (parameter.decode(unit) for unit in (0.0, 1.0))
    return tuple(f"{end:.4g}" if isinstance(end, float) else str(end) for end in (low, high))  # type: ignore[return-value]


def _axis(record: Record, name: str, trials: list[Trial]) -> tuple[list[Any], list[str]]:
    """Return x positions and the labels of the ticks, for a parameter of listed values; else no labels."""
    choices = getattr(record.header.space.parameters[name], "choices", None)
    if choices is None:
        return [trial.params[name] for trial in trials], []
    texts = [str(choice) for choice in choices]
    return [texts.index(str(trial.params[name])) for trial in trials], texts


def _log_ticks(axes: Axes, xs: list[float]) -> None:
    """Scale an axis logarithmically, with ticks at its ends and between, in plain numbers."""
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    ticks = np.geomspace(min(xs), max(xs), 4)
    axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure, axes = _figures(width, height, 1, 1)
    return figure, axes[0]


def _figures(width: float, height: float, rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    with needs_extra("search"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")  # no pyplot: no display, no global state
    found = figure.subplots(rows, columns, squeeze=False)
    for axes in found.flat:
        axes.grid(color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, labelsize=9)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(MUTED)
    return figure, list(found.flat)
