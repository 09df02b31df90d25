"""The ledger: which row groups a model has learned from, file by file, with the files' identities.

It is written with a checkpoint and with the published version, so that a later run can read only
what is new. Row groups next to each other with equal numbers are one entry: the ledger of a million
row groups is as long as its files are many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from raymill.data.snapshot import Fragment, Snapshot
from raymill.errors import Conflict, Corrupt

# G = row groups of a snapshot, g = row groups of one file

FORMAT = "raymill-ledger-1"
SHOWN = 3  # files named in a message


@dataclass(frozen=True)
class LearnedFile:
    """One file and how often the rows of its row groups were learned from."""

    identity: Fragment
    rows_g: np.ndarray
    """int64: rows of each row group."""
    visits_g: np.ndarray
    """int64: row visits over all epochs; 0 where the row group was never read."""


@dataclass(frozen=True)
class Comparison:
    """What became of a ledger's files."""

    known_G: np.ndarray
    """bool: row groups that were learned from and lie in files that are still the same."""
    rewritten: tuple[str, ...]
    vanished: tuple[str, ...]


@dataclass(frozen=True)
class Ledger:
    """Files by path relative to the dataset's root. Immutable: recording returns a new ledger."""

    files: Mapping[str, LearnedFile] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Return the rows of all row groups that were learned from."""
        return sum(int(file.rows_g[file.visits_g > 0].sum()) for file in self.files.values())

    @property
    def visits(self) -> int:
        """Return how many rows were handed to training, each as often as it was."""
        return sum(int(file.visits_g.sum()) for file in self.files.values())

    def record(self, snapshot: Snapshot, visits_G: np.ndarray) -> Ledger:
        """Return the ledger after `visits_G` rows of each row group of `snapshot` were learned from.

        A file that the ledger knows under another identity was rewritten: it starts at zero.
        """
        files = dict(self.files)
        for number, low, high in _touched_files(snapshot, visits_G):
            identity = snapshot.files[number]
            rows_g, visits_g = snapshot.group_rows_G[low:high], visits_G[low:high]
            before = files.get(identity.path)
            if before is not None and before.identity == identity:
                visits_g = visits_g + before.visits_g
            files[identity.path] = LearnedFile(identity, rows_g, visits_g)
        return Ledger(files)

    def compare(self, snapshot: Snapshot) -> Comparison:
        """Return which row groups of `snapshot` are known, and which known files changed or are gone."""
        known_G = np.zeros(snapshot.groups, bool)
        paths = snapshot.files.paths_M.to_pylist()
        edges = np.searchsorted(snapshot.group_file_G, np.arange(len(paths) + 1))
        rewritten = []
        for number, path in enumerate(paths):
            learned = self.files.get(path)
            if learned is None:
                continue
            if learned.identity == snapshot.files[number]:
                known_G[edges[number] : edges[number + 1]] = learned.visits_g > 0
            else:
                rewritten.append(path)
        return Comparison(known_G, tuple(rewritten), tuple(sorted(self.files.keys() - set(paths))))

    def mark(
        self,
        snapshot: Snapshot,
        *,
        rewritten: Literal["error", "learn", "skip"] = "error",
        vanished: Literal["error", "ignore"] = "error",
    ) -> Snapshot:
        """Return `snapshot` with its known row groups marked, for the read order `incremental`.

        Raises:
            Conflict: files were rewritten or are gone and the policy is error; they are named.
        """
        found = self.compare(snapshot)
        if found.rewritten and rewritten == "error":
            raise Conflict(
                f"{len(found.rewritten)} files were rewritten since the model learned from them: "
                f"{_some(found.rewritten)}; restore them, or set rewritten to learn or skip"
            )
        if found.vanished and vanished == "error":
            raise Conflict(
                f"{len(found.vanished)} files that the model learned from are gone: "
                f"{_some(found.vanished)}; restore them, or set vanished to ignore"
            )
        known_G = found.known_G
        if found.rewritten and rewritten == "skip":
            numbers = np.flatnonzero(np.isin(snapshot.files.paths_M.to_pylist(), found.rewritten))
            known_G = known_G | np.isin(snapshot.group_file_G, numbers)
        return replace(snapshot, group_known_G=known_G)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON: for each file its identity and runs of [row groups, rows, visits]."""
        return {
            "format": FORMAT,
            "files": [
                {
                    "path": path, "size_bytes": file.identity.size_bytes, "mtime_ns": file.identity.mtime_ns,
                    "groups": _runs(file.rows_g, file.visits_g),
                }
                for path, file in sorted(self.files.items())
            ],
        }  # fmt: skip

    @classmethod
    def from_json(cls, document: Any) -> Ledger:
        """Return the ledger that `to_json` wrote.

        Raises:
            Corrupt: the document is no ledger of this format.
        """
        try:
            if document["format"] != FORMAT:
                raise ValueError(f"format {document['format']!r}, need {FORMAT!r}")
            files = [_file_of(entry) for entry in document["files"]]
        except (KeyError, TypeError, ValueError) as error:
            raise Corrupt(
                f"this is no ledger: {error!r}; restore it from the version or the checkpoint"
            ) from error
        return cls({file.identity.path: file for file in files})


def _file_of(entry: Mapping[str, Any]) -> LearnedFile:
    runs = np.array(entry["groups"], np.int64).reshape(-1, 3)
    return LearnedFile(
        Fragment(entry["path"], entry["size_bytes"], entry["mtime_ns"]),
        np.repeat(runs[:, 1], runs[:, 0]),
        np.repeat(runs[:, 2], runs[:, 0]),
    )


def _runs(rows_g: np.ndarray, visits_g: np.ndarray) -> list[list[int]]:
    changes = np.flatnonzero((np.diff(rows_g) != 0) | (np.diff(visits_g) != 0)) + 1
    starts = [0, *changes.tolist()] if len(rows_g) else []
    ends = [*starts[1:], len(rows_g)]
    pairs = zip(starts, ends, strict=True)
    return [[end - start, int(rows_g[start]), int(visits_g[start])] for start, end in pairs]


def _touched_files(snapshot: Snapshot, visits_G: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield each file that was read, with its row groups [low, high)."""
    edges = np.searchsorted(snapshot.group_file_G, np.arange(len(snapshot.files) + 1))
    for number in np.unique(snapshot.group_file_G[visits_G > 0]).tolist():
        yield number, int(edges[number]), int(edges[number + 1])


def _some(paths: tuple[str, ...]) -> str:
    return ", ".join(repr(path) for path in paths[:SHOWN]) + (", ..." if len(paths) > SHOWN else "")
