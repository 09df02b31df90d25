"""The immutable listing of a Parquet dataset at one moment: files, row groups and schema, as columns.

A snapshot of a million row groups is a few arrays of a few megabytes, so that planning an epoch is
arithmetic on them. `take_snapshot` in `listing` builds one; `store` keeps one for the next run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa

from raymill.storage import Location

if TYPE_CHECKING:
    from raymill.data.predicate import Predicate

# G = row groups, in the order of their files; M = files


@dataclass(frozen=True)
class Fragment:
    """One Parquet file with the identity it had when listed."""

    path: str
    """Relative to the dataset's root; "" when the root is the file itself."""
    size_bytes: int
    mtime_ns: int
    """0 where the file system keeps none."""


class Files(Sequence[Fragment]):
    """The files of a snapshot, kept as columns: a `Fragment` is made when one is asked for."""

    def __init__(self, paths_M: pa.Array, size_bytes_M: np.ndarray, mtime_ns_M: np.ndarray) -> None:
        self.paths_M, self.size_bytes_M, self.mtime_ns_M = paths_M, size_bytes_M, mtime_ns_M

    @classmethod
    def of(cls, fragments: Iterable[Fragment]) -> Files:
        fragments = list(fragments)
        return cls(
            pa.array([fragment.path for fragment in fragments], pa.large_string()),
            np.array([fragment.size_bytes for fragment in fragments], np.int64),
            np.array([fragment.mtime_ns for fragment in fragments], np.int64),
        )

    def __len__(self) -> int:
        return len(self.paths_M)

    @overload
    def __getitem__(self, index: int) -> Fragment: ...
    @overload
    def __getitem__(self, index: slice) -> list[Fragment]: ...
    def __getitem__(self, index: int | slice) -> Fragment | list[Fragment]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index = int(index) % len(self)
        return Fragment(
            self.paths_M[index].as_py(), int(self.size_bytes_M[index]), int(self.mtime_ns_M[index])
        )


@dataclass(frozen=True)
class Snapshot:
    """Files, row groups and schema of a dataset; two equal listings have equal ids."""

    root: Location
    files: Files
    schema: pa.Schema
    """Columns of the files, then the hive partitions' columns."""
    group_file_G: np.ndarray
    """int32: index into `files`."""
    group_ordinal_G: np.ndarray
    """int32: row group's number inside its file."""
    group_rows_G: np.ndarray
    """int64: rows of each that a read yields; fewer than are stored where a predicate says so."""
    group_bytes_G: np.ndarray
    """int64: uncompressed size of all columns."""
    partitions: Mapping[str, pa.Array] = field(default_factory=dict)
    """Hive partition column to its value for each file."""
    predicate: Predicate | None = None
    """Rows that do not match it do not exist for any reader of this snapshot."""
    group_stored_G: np.ndarray | None = None
    """int64: rows in the files, where a predicate is given."""
    group_known_G: np.ndarray | None = None
    """bool: whether a ledger already holds the row group, where one was compared."""
    statistics: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Column to int64 [G]: each row group's rank by its smallest value, where they were read."""

    @cached_property
    def rows(self) -> int:
        return int(self.group_rows_G.sum())

    @property
    def groups(self) -> int:
        return len(self.group_rows_G)

    @cached_property
    def id(self) -> str:
        """16 hex digits over every file's identity, every row group's rows, the predicate and the ledger."""
        digest = hashlib.sha256()
        digest.update("\0".join(self.files.paths_M.to_pylist()).encode())
        for values in (self.files.size_bytes_M, self.files.mtime_ns_M, self.group_rows_G):
            digest.update(values.astype("<i8").tobytes())
        digest.update(self.group_file_G.astype("<i8").tobytes())
        if self.predicate is not None:
            digest.update(repr(self.predicate.conditions).encode())
        if self.group_known_G is not None:
            digest.update(np.packbits(self.group_known_G).tobytes())
        return digest.hexdigest()[:16]

    def location(self, group: int) -> Location:
        """Return the file that holds row group `group`."""
        return self.file_location(int(self.group_file_G[group]))

    def file_location(self, number: int) -> Location:
        """Return where file `number` lies."""
        path = self.files.paths_M[number].as_py()
        return self.root / path if path else self.root

    def stored_rows(self, group: int) -> int:
        """Return the rows that row group `group` has in its file, whatever the predicate."""
        stored_G = self.group_rows_G if self.group_stored_G is None else self.group_stored_G
        return int(stored_G[group])

    def partition_values(self, group: int) -> dict[str, Any]:
        """Return the value of each partition column in row group `group`."""
        number = int(self.group_file_G[group])
        return {name: values_M[number].as_py() for name, values_M in self.partitions.items()}


def ordinals(counts_M: np.ndarray) -> np.ndarray:
    """Return int32 [G]: 0, 1, ... within each file, given the row groups of each file."""
    starts_M = np.cumsum(counts_M) - counts_M
    ordinals_G: np.ndarray = np.arange(counts_M.sum()) - np.repeat(starts_M, counts_M)
    return ordinals_G.astype(np.int32)
