"""Row groups into encoded rows, straight into the caller's buffers; safe to call from many threads."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymill.data.snapshot import Snapshot
from raymill.errors import DataError
from raymill.features import Encoder, Features

OPEN_FILES_PER_THREAD = 4  # a window rarely spans more; each keeps one parsed footer


class RowGroupReader:
    """Reads row groups of a snapshot; keeps a few open files a thread, for footers cost a parse each."""

    def __init__(self, snapshot: Snapshot, columns: list[str]) -> None:
        self._snapshot = snapshot
        self._columns = columns
        self._local = threading.local()

    def table(self, group: int, start: int = 0, stop: int | None = None) -> pa.Table:
        """Return rows [start, stop) of row group `group`, the reader's columns only.

        Raises:
            DataError: the file vanished, changed since the snapshot, or is broken; it is named.
        """
        location = self._snapshot.location(group)
        try:
            table = self._file(group).read_row_group(
                int(self._snapshot.group_ordinal_G[group]), columns=self._columns, use_threads=False
            )
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"file {location.uri!r}, row group {self._snapshot.group_ordinal_G[group]}, cannot be read: "
                f"{error}; restore the file or take the snapshot again"
            ) from error
        return table.slice(start, None if stop is None else stop - start)

    def _file(self, group: int) -> pq.ParquetFile:
        number = int(self._snapshot.group_file_G[group])
        files: OrderedDict[int, pq.ParquetFile] | None = getattr(self._local, "files", None)
        if files is None:
            files = self._local.files = OrderedDict()
        if number in files:
            files.move_to_end(number)
            return files[number]
        location, listed = self._snapshot.location(group), self._snapshot.files[number]
        info = location.info()
        if (info.size, info.mtime_ns or 0) != (listed.size_bytes, listed.mtime_ns):
            raise DataError(
                f"file {location.uri!r} changed or vanished since the snapshot {self._snapshot.id} was taken; "
                "datasets are immutable while a run reads them: write new files instead, or start a new run"
            )
        files[number] = pq.ParquetFile(location.open_input(), pre_buffer=True)
        if len(files) > OPEN_FILES_PER_THREAD:
            files.popitem(last=False)[1].close(force=True)
        return files[number]


class Decoder:
    """Row groups into features and labels."""

    def __init__(self, snapshot: Snapshot, encoder: Encoder) -> None:
        self._encoder = encoder
        self._reader = RowGroupReader(snapshot, [*encoder.names, encoder.target])

    def empty(self, rows: int) -> tuple[Features, np.ndarray]:
        """Return uninitialised features and labels of `rows` rows."""
        return self._encoder.empty(rows), np.empty(rows, self._encoder.label_dtype)

    def decode_into(
        self, group: int, start: int, stop: int, features: Features, labels_N: np.ndarray
    ) -> None:
        """Fill the buffers with rows [start, stop) of row group `group`. Raises DataError, file named."""
        table = self._reader.table(group, start, stop)
        self._encoder.encode_into(table, features)
        labels_N[:] = self._encoder.encode_labels(table.column(self._encoder.target))
