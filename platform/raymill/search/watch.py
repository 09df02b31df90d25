"""What a person sees of a study: a line as each trial ends, and a table of the best and of those that run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from raymill.search.record import Record, Trial

INTERVAL_S = 15.0
ROWS = 5
WIDTH = 120


class Watch:
    """Prints a study's course as whole lines, for a job's output is a log and no terminal."""

    def __init__(
        self,
        name: str,
        record: Record,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        wide = None if sys.stdout.isatty() else WIDTH
        self._name, self._record, self._clock = name, record, clock
        self._console = console or Console(width=wide, highlight=False, soft_wrap=True)
        self._seen = {trial.number for trial in record.trials if trial.ended}
        self._last = clock()

    def tick(self) -> None:
        """Print what ended since, and the table if it is time for it."""
        for trial in self._record.trials:
            if trial.ended and trial.number not in self._seen:
                self._seen.add(trial.number)
                self._console.print(self._line(trial), markup=False)
        if self._clock() - self._last >= INTERVAL_S:
            self._last = self._clock()
            self._console.print(study_table(self._name, self._record))

    def close(self) -> None:
        """Print the last lines and the table."""
        self._last = float("-inf")
        self.tick()

    def _line(self, trial: Trial) -> str:
        head = f"trial {trial.number} {stage_name(self._record, trial)}: {params_text(trial.params)}"
        if trial.status == "failed":
            return f"{head} failed: {trial.error}"
        metrics = ", ".join(
            f"{objective.metric} {trial.metrics[objective.metric]:.5g}"
            for objective in self._record.header.objectives
        )
        best = self._record.best()
        record = ", the best so far" if best is trial else ""
        early = " (stopped early)" if trial.status == "stopped" else ""
        return f"{head} -> {metrics}{early} in {trial.seconds or 0.0:.1f} s{record}"


def study_table(name: str, record: Record) -> Table:
    """Return a table of the best trials of a study and of those that run."""
    counts = ", ".join(f"{count} {status}" for status, count in record.counts().items() if count)
    metrics = [objective.metric for objective in record.header.objectives]
    params = list(record.header.space.parameters)
    heads = ("trial", "searcher", "status", *metrics, "seconds", *(short(param) for param in params))
    title = f"study {name}: {counts or 'no trials yet'}"
    table = Table(*(Column(head, overflow="fold") for head in heads), title=title)
    for trial in [*ranked(record)[:ROWS], *record.pending()]:
        table.add_row(
            str(trial.number), stage_name(record, trial), trial.status,
            *(value_text(trial.metrics.get(metric)) for metric in metrics),
            "" if trial.seconds is None else f"{trial.seconds:.1f}",
            *(value_text(trial.params.get(param)) for param in params),
        )  # fmt: skip
    return table


def ranked(record: Record) -> list[Trial]:
    """Return the trials that count, best first by the first objective."""
    values = {
        trial.number: found[0]
        for trial in record.trials
        if trial.status in ("complete", "stopped") and (found := record.header.values(trial.metrics))
    }
    order = sorted(values, key=lambda number: (values[number], number))
    return [record.trials[number] for number in order]


def stage_name(record: Record, trial: Trial) -> str:
    """Return the name of the searcher that asked for a trial."""
    return record.header.stages[trial.stage].searcher


def short(name: str) -> str:
    """Return the last part of a dotted name."""
    return name.rpartition(".")[2]


def params_text(params: dict[str, object]) -> str:
    """Return parameters as "max_depth=5, learning_rate=0.1"."""
    return ", ".join(f"{short(name)}={value_text(value)}" for name, value in params.items())


def value_text(value: object) -> str:
    """Return a value in few characters; "" for one that is not there."""
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float | np.floating) else str(value)
