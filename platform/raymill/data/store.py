"""A snapshot in a file, so that the next run lists the files but reads only new footers."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa

from raymill.data.snapshot import Files, Snapshot, ordinals
from raymill.errors import Corrupt
from raymill.storage import Location, locate

FORMAT = "raymill-snapshot-1"
FILE_NAME = "_raymill_snapshot.arrow"
BESIDE = "beside"


def place(root: Location, stored: str | Location) -> Location:
    """Return where the snapshot of `root` is kept; "beside" means inside the dataset's directory."""
    if stored == BESIDE:
        return root / FILE_NAME if root.is_directory() else locate(f"{root.uri}.{FILE_NAME}")
    return stored if isinstance(stored, Location) else locate(stored)


def save(snapshot: Snapshot, location: Location) -> None:
    """Write the snapshot in one step. Predicates and ledger marks belong to a run and are not kept."""
    stored_G = snapshot.group_rows_G if snapshot.group_stored_G is None else snapshot.group_stored_G
    header = {"format": FORMAT, "partitions": list(snapshot.partitions)}
    schema = snapshot.schema.with_metadata({b"raymill": json.dumps(header).encode()})
    files = pa.table(
        {
            "path": snapshot.files.paths_M,
            "size_bytes": snapshot.files.size_bytes_M,
            "mtime_ns": snapshot.files.mtime_ns_M,
            "groups": np.bincount(snapshot.group_file_G, minlength=len(snapshot.files)),
            **{f"partition:{name}": values_M for name, values_M in snapshot.partitions.items()},
        }
    )
    groups = pa.table({"rows": stored_G, "bytes": snapshot.group_bytes_G})
    sink = pa.BufferOutputStream()
    for table in (schema.empty_table(), files, groups):
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    location.replace_bytes(sink.getvalue())


def load(location: Location, root: Location) -> Snapshot:
    """Return the snapshot that `save` wrote for the dataset at `root`.

    Raises:
        Corrupt: the file is not a snapshot of this format.
    """
    try:
        with location.open_input() as source:
            schema, files, groups = (pa.ipc.open_stream(source).read_all() for _ in range(3))
        header = json.loads(schema.schema.metadata[b"raymill"])
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"{location.uri!r} is no snapshot ({error}); delete it, it is taken again") from error
    if header.get("format") != FORMAT:
        raise Corrupt(f"{location.uri!r} has format {header.get('format')!r}, need {FORMAT!r}; delete it")
    counts_M = files["groups"].to_numpy()
    return Snapshot(
        root=root,
        files=Files(
            files["path"].combine_chunks(), files["size_bytes"].to_numpy(), files["mtime_ns"].to_numpy()
        ),
        schema=schema.schema.remove_metadata(),
        group_file_G=np.repeat(np.arange(len(files), dtype=np.int32), counts_M),
        group_ordinal_G=ordinals(counts_M),
        group_rows_G=groups["rows"].to_numpy(),
        group_bytes_G=groups["bytes"].to_numpy(),
        partitions={name: files[f"partition:{name}"].combine_chunks() for name in header["partitions"]},
    )
