"""Taking a snapshot: files are listed, footers read in parallel, schemas checked, partitions found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymill.columns import is_text
from raymill.data import store
from raymill.data.snapshot import Files, Fragment, Snapshot, ordinals
from raymill.errors import DataError, NotFound
from raymill.progress import Progress
from raymill.storage import Location, locate

FOOTER_THREADS = 16  # footers are latency-bound on remote stores; local ones finish either way
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class _Footer:
    """What a snapshot keeps of one file; the parsed footer itself is far larger."""

    rows_g: np.ndarray
    bytes_g: np.ndarray


def take_snapshot(
    uri: str | Location, *, threads: int = FOOTER_THREADS, stored: str | Location | None = None
) -> Snapshot:
    """Return the snapshot of a directory of Parquet files (searched recursively) or of one file.

    Files whose name, or a folder of whose path, starts with "_" or "." are passed over, as Spark
    and Arrow do. Folders named `key=value` become columns. A progress line is printed every two
    seconds while footers are read.

    Args:
        uri: The dataset's root.
        threads: Footers read at a time.
        stored: A snapshot file; footers of files that are listed there with the same size and
            mtime are not read again, and the new snapshot is written there. "beside" keeps it in
            the dataset's root as `_raymill_snapshot.arrow`.

    Raises:
        NotFound: nothing at `uri`.
        DataError: no Parquet file, no rows, a file that cannot be read, or files whose schemas or
            partition folders differ; the message names the file.
    """
    root = uri if isinstance(uri, Location) else locate(uri)
    if not root.exists():
        raise NotFound(f"no dataset at {root.uri!r}; prepare it first, or correct the path")
    listed = list(_list(root))
    if not listed:
        raise DataError(f"dataset {root.uri!r} holds no *.parquet file")
    kept_at = store.place(root, stored) if stored is not None else None
    before = store.load(kept_at, root) if kept_at is not None and kept_at.exists() else None
    schema, footers = _read_footers(root, listed, threads, before)
    snapshot = _assemble(root, listed, schema, footers)
    if kept_at is not None and (before is None or before.id != snapshot.id):
        store.save(snapshot, kept_at)
    return snapshot


def _assemble(
    root: Location, listed: Sequence[Fragment], schema: pa.Schema, footers: Sequence[_Footer]
) -> Snapshot:
    counts = [len(footer.rows_g) for footer in footers]
    partitions = _partitions(root, listed, schema)
    for name, values_M in partitions.items():
        schema = schema.append(pa.field(name, values_M.type))
    snapshot = Snapshot(
        root=root,
        files=Files.of(listed),
        schema=schema,
        group_file_G=np.repeat(np.arange(len(footers), dtype=np.int32), counts),
        group_ordinal_G=ordinals(np.array(counts, np.int64)),
        group_rows_G=np.concatenate([footer.rows_g for footer in footers]),
        group_bytes_G=np.concatenate([footer.bytes_g for footer in footers]),
        partitions=partitions,
    )
    if snapshot.rows == 0:
        raise DataError(f"dataset {root.uri!r} has {len(listed)} files and no rows")
    return snapshot


def _list(root: Location) -> Iterator[Fragment]:
    if not root.is_directory():
        info = root.info()
        yield Fragment("", int(info.size), int(info.mtime_ns or 0))
        return
    for location, info in root.files():
        relative = location.path.removeprefix(root.path.rstrip("/")).lstrip("/")
        hidden = any(part.startswith(("_", ".")) for part in relative.split("/"))
        if relative.endswith(".parquet") and not hidden:
            yield Fragment(relative, int(info.size), int(info.mtime_ns or 0))


def _read_footers(
    root: Location, listed: Sequence[Fragment], threads: int, before: Snapshot | None
) -> tuple[pa.Schema, list[_Footer]]:
    known = _known_footers(before) if before is not None else {}
    first = root / listed[0].path if listed[0].path else root
    schema = _parse_footer(first).schema.to_arrow_schema().remove_metadata()
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise DataError(f"file {first.uri!r} has column {twice[0]!r} twice; write it again with one of them")
    if before is not None and _file_schema(before) != schema:
        known = {}  # the dataset was written anew; every file must be held to the new schema

    def read(fragment: Fragment) -> _Footer:
        found = known.get(fragment)
        if found is not None:
            return found
        location = root / fragment.path if fragment.path else root
        footer = _parse_footer(location)
        check_same_schema(schema, footer.schema.to_arrow_schema(), listed[0].path, location)
        groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
        return _Footer(
            np.array([group.num_rows for group in groups], np.int64),
            np.array([group.total_byte_size for group in groups], np.int64),
        )

    progress = Progress(f"footers of {root.uri}", len(listed), "files")
    footers = []
    with ThreadPoolExecutor(min(threads, len(listed)), thread_name_prefix="footer") as pool:
        for footer in pool.map(read, listed):
            footers.append(footer)
            progress.advance(1)
    progress.close()
    return schema, footers


def _known_footers(snapshot: Snapshot) -> dict[Fragment, _Footer]:
    edges = np.searchsorted(snapshot.group_file_G, np.arange(len(snapshot.files) + 1))
    return {
        fragment: _Footer(snapshot.group_rows_G[low:high], snapshot.group_bytes_G[low:high])
        for fragment, low, high in zip(snapshot.files, edges[:-1], edges[1:], strict=True)
    }


def _file_schema(snapshot: Snapshot) -> pa.Schema:
    return pa.schema([field for field in snapshot.schema if field.name not in snapshot.partitions])


def _parse_footer(location: Location) -> pq.FileMetaData:
    try:
        with location.open_input() as file:
            return pq.read_metadata(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"file {location.uri!r} cannot be read as Parquet ({error}); it may be truncated: "
            "write it again or remove it"
        ) from error


def check_same_schema(expected: pa.Schema, found: pa.Schema, first: str, location: Location) -> None:
    """Refuse a file whose columns differ from the first file's.

    Raises:
        DataError: names the file, the column and both types.
    """
    if expected.equals(found):
        return
    for field in expected:
        if field.name not in found.names:
            raise DataError(
                f"file {location.uri!r} lacks column {field.name!r}, which {first!r} has; "
                "write it again with the column, or keep files of one schema in one dataset"
            )
        other = found.field(field.name).type
        if other != field.type and not (is_text(other) and is_text(field.type)):
            raise DataError(
                f"file {location.uri!r} holds column {field.name!r} as {other}, but {first!r} as "
                f"{field.type}; write one of them again with the other's type"
            )
    extra = [name for name in found.names if name not in expected.names]
    if extra:
        raise DataError(
            f"file {location.uri!r} has column {extra[0]!r}, which {first!r} lacks; "
            "write the older files again with the column, or keep files of one schema in one dataset"
        )


def _partitions(root: Location, listed: Sequence[Fragment], schema: pa.Schema) -> Mapping[str, pa.Array]:
    """Return the columns that folders named key=value stand for, one value a file."""
    rows = [_partition_values(fragment.path) for fragment in listed]
    names = list(rows[0])
    for fragment, row in zip(listed, rows, strict=True):
        if list(row) != names:
            raise DataError(
                f"file {(root / fragment.path).uri!r} lies in partition folders {list(row)}, but "
                f"{listed[0].path!r} in {names}; give all files of a dataset the same folders"
            )
    for name in names:
        if name in schema.names:
            raise DataError(
                f"dataset {root.uri!r} has {name!r} both as a partition folder and as a column of its "
                "files; rename one of them"
            )
    return {name: _typed([row[name] for row in rows]) for name in names}


def _partition_values(path: str) -> dict[str, str | None]:
    pairs = [part.partition("=") for part in path.split("/")[:-1]]
    return {
        key: None if value == HIVE_NULL else unquote(value) for key, equals, value in pairs if key and equals
    }


def _typed(values: Sequence[str | None]) -> pa.Array:
    """Return integers where every value is one, else text, as Spark and Arrow infer them."""
    try:
        return pa.array([None if value is None else int(value) for value in values], pa.int64())
    except ValueError:
        return pa.array(values, pa.string())
