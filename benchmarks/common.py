"""What every benchmark shares: peers in environments of their own, paired rounds, a table, a JSON line.

A benchmark answers one question. Contenders run by turns, in a new order each round, so that a machine
that drifts slows all of them alike; what is compared is the ratio within a round, and its median over
the rounds is the figure. Absolute numbers are printed for the reader, not for judging.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
ENVIRONMENTS = HERE / ".envs"
console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)

Contender = Callable[[], float]
"""Runs once and returns its figure, such as rows/s."""


@dataclass(frozen=True)
class Rounds:
    """Figures of every contender, one a round."""

    values: Mapping[str, Sequence[float]]
    unit: str

    def median(self, name: str) -> float:
        return statistics.median(self.values[name])

    def ratio(self, name: str, baseline: str) -> float:
        """Return the median over the rounds of name / baseline within a round."""
        pairs = zip(self.values[name], self.values[baseline], strict=True)
        return statistics.median(mine / other for mine, other in pairs)

    def show(self, title: str, baseline: str) -> None:
        """Print a row a contender: median, smallest, largest, and the paired ratio to the baseline."""
        table = Table("what", self.unit, "smallest", "largest", f"to {baseline}", title=title)
        for name, values in self.values.items():
            cells = (self.median(name), min(values), max(values))
            table.add_row(name, *(f"{cell:,.4g}" for cell in cells), f"{self.ratio(name, baseline):.3f}")
        console.print(table)


def compare(contenders: Mapping[str, Contender], *, unit: str, rounds: int = 10, warmup: int = 1) -> Rounds:
    """Run all contenders by turns and return their figures; the first `warmup` rounds are dropped."""
    names = list(contenders)
    values: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warmup, rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            figure = contenders[name]()
            turn_name = "warm-up" if number < 0 else f"round {number + 1}"
            console.print(f"{turn_name}: {name} {figure:,.4g} {unit}")
            if number >= 0:
                values[name].append(figure)
    return Rounds(values, unit)


def calls_per_second(call: Callable[[], object], seconds: float = 0.5) -> float:
    """Return how often `call` runs in a second, over about `seconds`."""
    count, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        call()
        count += 1
    return count / elapsed


def environment(name: str, requirements: Sequence[str]) -> Path:
    """Return the Python of a virtual environment that holds exactly `requirements`, made on first use.

    Peers must not share ours: their pins and ours would decide each other's speed.
    """
    key = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:8]
    folder = ENVIRONMENTS / f"{name}-{key}"
    python = folder / "bin" / "python"
    ready = folder / ".ready"
    if not ready.exists():
        console.print(f"making the environment of {name}: {', '.join(requirements)}")
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
        ready.touch()
    return python


def run_json(
    python: Path | str, script: Path, *arguments: str, variables: Mapping[str, str] | None = None
) -> Any:
    """Run a peer's script and return the JSON of its last line."""
    done = subprocess.run(
        [str(python), str(script), *arguments],
        check=True, capture_output=True, text=True, env={**os.environ, **(variables or {})},
    )  # fmt: skip
    return json.loads(done.stdout.strip().splitlines()[-1])


def finish(question: str, figures: Mapping[str, Any]) -> None:
    """Print the closing line: figures, machine, date, commit."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True
    ).stdout.strip()
    line = {
        "benchmark": question,
        **figures,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit or None,
    }
    print(json.dumps(line), flush=True)
