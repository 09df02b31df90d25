"""Opening raw sources: as a Ray Dataset for the main rows, as one Arrow table for joins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from raymill.errors import DataError, NotFound
from raymill.prepare.rows import ARROW_TYPES
from raymill.prepare.spec import SourceSpec
from raymill.storage import Location, locate

CSV_BLOCK_BYTES = 16 << 20  # types are inferred from the first block; a large one is misled less often


def open_dataset(spec: SourceSpec) -> Any:
    """Return the source as a lazy `ray.data.Dataset`. Raises NotFound or DataError, path named."""
    import ray.data

    files, kind = resolve(spec)
    paths = [file.path for file in files]
    filesystem = files[0].filesystem
    if kind == "parquet":
        return ray.data.read_parquet(paths, filesystem=filesystem)
    return ray.data.read_csv(
        paths,
        filesystem=filesystem,
        read_options=pcsv.ReadOptions(block_size=CSV_BLOCK_BYTES),
        convert_options=_convert_options(spec),
        file_extensions=None,
    )


def read_table(spec: SourceSpec) -> pa.Table:
    """Return the whole source as one table. Raises NotFound or DataError, path named."""
    files, kind = resolve(spec)
    tables = []
    for file in files:
        try:
            with file.open_input() as stream:
                if kind == "parquet":
                    tables.append(pq.read_table(stream))
                else:
                    tables.append(pcsv.read_csv(stream, convert_options=_convert_options(spec)))
        except pa.ArrowException as error:
            raise DataError(f"{file.uri!r} cannot be read as {kind}: {error}") from error
    return pa.concat_tables(tables, promote_options="permissive")


def resolve(spec: SourceSpec) -> tuple[Sequence[Location], str]:
    """Return the source's files, opened out of a zip if need be, and their format."""
    location = locate(spec.path)
    if not location.exists():
        raise NotFound(f"no source at {spec.path!r}")
    if location.path.endswith(".zip"):
        files = _unzipped(location)
    elif location.is_directory():
        files = [file for file, _ in location.files() if not file.name.startswith(("_", "."))]
    else:
        files = [location]
    if not files:
        raise DataError(f"source {spec.path!r} holds no files")
    kind = spec.format
    if kind == "auto":
        kind = "parquet" if files[0].path.endswith(".parquet") else "csv"
    return files, kind


def identity(spec: SourceSpec) -> list[list[Any]]:
    """Return path, size and mtime of the source's files; equal identities mean unchanged sources."""
    location = locate(spec.path)
    files = location.files() if location.is_directory() else [(location, location.info())]
    return [[file.uri, int(info.size), int(info.mtime_ns or 0)] for file, info in files]


def _unzipped(location: Location) -> list[Location]:
    from fsspec.implementations.zip import ZipFileSystem

    inner = ZipFileSystem(location.path)
    filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(inner))
    return [Location(filesystem, name, f"{location.uri}!{name}") for name in sorted(inner.find(""))]


def _convert_options(spec: SourceSpec) -> pcsv.ConvertOptions:
    return pcsv.ConvertOptions(
        null_values=list(spec.nulls),
        strings_can_be_null=True,
        column_types={name: ARROW_TYPES[kind] for name, kind in spec.types.items()},
    )
