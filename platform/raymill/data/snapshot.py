"""The immutable listing of a Parquet dataset at one moment, built from footers in parallel.

Row groups are kept as columns, so that very many of them fit in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymill.errors import DataError, NotFound
from raymill.storage import Location, locate

# G = row groups, in the order of their files

FOOTER_THREADS = 16  # footers are latency-bound on remote stores; local ones finish either way


@dataclass(frozen=True)
class Fragment:
    """One Parquet file with the identity it had when listed."""

    path: str
    """Relative to the dataset's root; "" when the root is the file itself."""
    size_bytes: int
    mtime_ns: int
    """0 where the file system keeps none."""


@dataclass(frozen=True)
class Snapshot:
    """Files, row groups and schema of a dataset; two equal listings have equal ids."""

    root: Location
    files: tuple[Fragment, ...]
    schema: pa.Schema
    group_file_G: np.ndarray
    """int32: index into `files`."""
    group_ordinal_G: np.ndarray
    """int32: row group's number inside its file."""
    group_rows_G: np.ndarray
    """int64."""
    group_bytes_G: np.ndarray
    """int64: uncompressed size of all columns."""

    @cached_property
    def rows(self) -> int:
        return int(self.group_rows_G.sum())

    @property
    def groups(self) -> int:
        return len(self.group_rows_G)

    @cached_property
    def id(self) -> str:
        """16 hex digits over every file's path, size and mtime, and every row group's rows."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.path}\0{file.size_bytes}\0{file.mtime_ns}\n".encode())
        digest.update(self.group_rows_G.astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def location(self, group: int) -> Location:
        """Return the file that holds row group `group`."""
        path = self.files[self.group_file_G[group]].path
        return self.root / path if path else self.root


def take_snapshot(uri: str | Location, *, threads: int = FOOTER_THREADS) -> Snapshot:
    """Return the snapshot of a directory of Parquet files (searched recursively) or of one file.

    Files whose name, or a folder of whose path, starts with "_" or "." are passed over, as Spark
    and Arrow do.

    Raises:
        NotFound: nothing at `uri`.
        DataError: no Parquet file, no rows, a file that cannot be read, or files whose schemas
            differ; the message names the file.
    """
    root = uri if isinstance(uri, Location) else locate(uri)
    if not root.exists():
        raise NotFound(f"no dataset at {root.uri!r}; prepare it first, or correct the path")
    listed = list(_list(root))
    if not listed:
        raise DataError(f"dataset {root.uri!r} holds no *.parquet file")
    with ThreadPoolExecutor(min(threads, len(listed)), thread_name_prefix="footer") as pool:
        footers = list(pool.map(lambda item: _read_footer(item[1]), listed))
    schema = footers[0].schema.to_arrow_schema()
    for (fragment, location), footer in zip(listed, footers, strict=True):
        _check_same_schema(schema, footer.schema.to_arrow_schema(), listed[0][0].path, location, fragment)
    counts = [footer.num_row_groups for footer in footers]
    snapshot = Snapshot(
        root=root,
        files=tuple(fragment for fragment, _ in listed),
        schema=schema.remove_metadata(),
        group_file_G=np.repeat(np.arange(len(footers), dtype=np.int32), counts),
        group_ordinal_G=np.concatenate([np.arange(count, dtype=np.int32) for count in counts]),
        group_rows_G=_per_group(footers, lambda group: group.num_rows),
        group_bytes_G=_per_group(footers, lambda group: group.total_byte_size),
    )
    if snapshot.rows == 0:
        raise DataError(f"dataset {root.uri!r} has {len(listed)} files and no rows")
    return snapshot


def _list(root: Location) -> Iterator[tuple[Fragment, Location]]:
    if not root.is_directory():
        info = root.info()
        yield Fragment("", int(info.size), int(info.mtime_ns or 0)), root
        return
    for location, info in root.files():
        relative = location.path.removeprefix(root.path.rstrip("/")).lstrip("/")
        hidden = any(part.startswith(("_", ".")) for part in relative.split("/"))
        if relative.endswith(".parquet") and not hidden:
            yield Fragment(relative, int(info.size), int(info.mtime_ns or 0)), location


def _read_footer(location: Location) -> pq.FileMetaData:
    try:
        with location.open_input() as file:
            return pq.read_metadata(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"file {location.uri!r} cannot be read as Parquet ({error}); it may be truncated: "
            "write it again or remove it"
        ) from error


def _check_same_schema(
    expected: pa.Schema, found: pa.Schema, first: str, location: Location, fragment: Fragment
) -> None:
    if expected.equals(found):
        return
    for field in expected:
        if field.name not in found.names:
            raise DataError(f"file {location.uri!r} lacks column {field.name!r}, which {first!r} has")
        other = found.field(field.name).type
        if other != field.type:
            raise DataError(
                f"file {location.uri!r} holds column {field.name!r} as {other}, but {first!r} as {field.type}"
            )
    extra = [name for name in found.names if name not in expected.names]
    if extra:
        raise DataError(f"file {location.uri!r} has column {extra[0]!r}, which {first!r} lacks")


def _per_group(
    footers: list[pq.FileMetaData], value: Callable[[pq.RowGroupMetaData], int]
) -> np.ndarray:
    values = [value(footer.row_group(i)) for footer in footers for i in range(footer.num_row_groups)]
    return np.array(values, np.int64)
