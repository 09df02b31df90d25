"""The record of a run, and how its training went.

    <runs>/<run>/run.json       what it is, how it stands, which version it became
    <runs>/<run>/history.json   loss and pace over its rows, and one entry an epoch

The first is written by the job, the second by the worker that trains; each is replaced in one step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import pydantic
from pydantic import Field

from raymill.config import Spec, parse
from raymill.errors import Corrupt, NotFound, SpecError, nearest
from raymill.storage import Location, locate

S = TypeVar("S", bound=Spec)
RECORD_FILE, HISTORY_FILE = "run.json", "history.json"
MOST_POINTS = 2000  # a curve of any length fits a screen, and a file that is rewritten every few seconds


class Owner(Spec):
    """The Ray job that a run belongs to, to know whether it still lives."""

    session: str
    job: str


class RunRecord(Spec):
    """One run, as `run.json` holds it."""

    format: Literal["raymill-run-1"] = "raymill-run-1"
    run: str
    model: str
    flavor: str
    strategy: str
    status: Literal["running", "finished", "failed"] = "running"
    started: str
    updated: str
    """When the job last wrote this, UTC."""
    attempts: int = 1
    """Jobs that worked on it; more than one where a job died and was submitted again."""
    owner: Owner | None = None
    spec: dict[str, Any]
    snapshots: dict[str, str]
    """Dataset role to snapshot id."""
    code: str
    """SHA-256 of the package's sources."""
    version: int | None = None
    metrics: dict[str, dict[str, float]] = {}
    """Metrics of the published version by dataset role."""
    error: str | None = None


class Point(Spec):
    """How training stood at one moment; losses and rows are those of all workers."""

    rows: int
    """Rows learned from since the run began."""
    seconds: float
    """Seconds of training since the run began, without those between two attempts."""
    epoch: int
    step: int
    loss: float
    rows_per_second: float
    workers: int
    wait_ms: float = 0.0
    """Milliseconds that a step waited for its batch lately, on the worker that waited longest."""


class History(Spec):
    """The curve of a run; lists grow in place, and are thinned where they grow long."""

    points: list[Point] = Field(default_factory=list)
    epochs: list[dict[str, float]] = Field(default_factory=list)

    def add(self, point: Point) -> None:
        """Append a point. A resumed run takes back what it now does again."""
        while self.points and self.points[-1].rows >= point.rows:
            self.points.pop()
        self.points.append(point)
        if len(self.points) > MOST_POINTS:
            del self.points[1::2]

    def end_epoch(self, entry: Mapping[str, float]) -> None:
        """Append an epoch's closing entry, or that of a boosting round."""
        while self.epochs and _number(self.epochs[-1]) >= _number(entry):
            self.epochs.pop()
        self.epochs.append(dict(entry))


class Runs:
    """All runs below one root."""

    def __init__(self, root: str | Location) -> None:
        self.root = root if isinstance(root, Location) else locate(root)

    def names(self) -> list[str]:
        """Return the names of all runs, sorted."""
        return [child.name for child in self.root.children() if (child / RECORD_FILE).exists()]

    def record(self, run: str) -> RunRecord:
        """Return the record of a run.

        Raises:
            NotFound: no such run; the nearest name is in the message.
            Corrupt: the file is no record.
        """
        found = self.find(run)
        if found is None:
            raise NotFound(f"no run {run!r} in {self.root}.{nearest(run, self.names())}")
        return found

    def find(self, run: str) -> RunRecord | None:
        """Return the record of a run, or None where there is none. Raises Corrupt as `record` does."""
        file = self.root / run / RECORD_FILE
        return _read(file, RunRecord) if file.exists() else None

    def history(self, run: str) -> History:
        """Return how a run's training went; empty where it has not begun to learn."""
        file = self.root / run / HISTORY_FILE
        return _read(file, History) if file.exists() else History()

    def heard_from(self, record: RunRecord) -> datetime:
        """Return when the job or its workers last wrote anything of the run, UTC."""
        written = datetime.fromisoformat(record.updated)
        info = (self.root / record.run / HISTORY_FILE).info()
        return max(written, info.mtime) if info.mtime else written

    def write_history(self, run: str, history: History) -> None:
        (self.root / run / HISTORY_FILE).replace_bytes(history.model_dump_json().encode())

    def write(self, record: RunRecord, **changes: Any) -> RunRecord:
        """Store the record with `changes`, and return it as stored."""
        changed = record.model_copy(update={**changes, "updated": now()})
        home = self.root / record.run
        home.make_directory()
        (home / RECORD_FILE).replace_bytes(changed.model_dump_json(indent=1).encode())
        return changed


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read(file: Location, kind: type[S]) -> S:
    try:
        return parse(kind, json.loads(file.read_bytes()), source=file.uri)
    except (ValueError, SpecError, pydantic.ValidationError) as error:
        raise Corrupt(f"{file.uri!r} is no record of a run: {error}; delete it to forget the run") from error


def _number(entry: Mapping[str, float]) -> float:
    return entry.get("epoch", entry.get("round", 0.0))
