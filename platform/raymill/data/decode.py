"""Row groups into encoded rows, straight into the caller's buffers; safe to call from many threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from raymill.data.direct import Chunks, DirectColumns, Footer
from raymill.data.rows import Rows
from raymill.data.snapshot import Snapshot
from raymill.encode_arrow import without_views
from raymill.errors import DataError
from raymill.features import Encoder, Features
from raymill.kernels import DIRECT_BYTES

FOOTERS_KEPT = 64  # parsed; a shuffled epoch soon comes back to a file
# Decoded bytes of columns read at a time. Arrow takes five times that while it decodes them; three columns at
# once decode as fast as ten.
LOCAL_SLICE_BYTES = 3 << 18
PLACED_VALUES = 200_000  # put into blocks at once, of row groups too large to hold all their columns
REMOTE_SLICE_BYTES = 16 << 20  # where every read waits for the network

# N = rows


def one_line(error: Exception) -> str:
    """Return an error's text without the line breaks that Arrow puts in."""
    return " ".join(str(error).split())


class RowGroupReader:
    """Reads row groups of a snapshot; keeps some footers, for each costs a parse."""

    def __init__(self, snapshot: Snapshot, columns: Sequence[str]) -> None:
        """
        Args:
            snapshot: Its predicate is applied: rows that do not match are not there.
            columns: What `table` returns, in this order; partition columns among them.
        """
        self.snapshot, self.columns = snapshot, list(columns)
        self.is_local = isinstance(snapshot.root.filesystem, pafs.LocalFileSystem)
        self._lock = threading.Lock()
        self._footers: OrderedDict[int, Footer] = OrderedDict()

    def table(
        self, group: int, start: int = 0, stop: int | None = None, pick_N: np.ndarray | None = None
    ) -> pa.Table:
        """Return rows [start, stop) of row group `group`, the reader's columns only.

        Raises:
            DataError: the file vanished, changed since the snapshot, or is broken; it is named.
        """
        return self.read(group, self.columns, self.selection(group, start, stop, pick_N))

    def selection(
        self, group: int, start: int = 0, stop: int | None = None, pick_N: np.ndarray | None = None
    ) -> slice | np.ndarray:
        """Return which stored rows [start, stop) of the group's matching, picked rows are.

        Args:
            pick_N: Rising numbers of the matching rows that exist for the caller; None for all.
        """
        matching = int(self.snapshot.group_rows_G[group])
        if matching == self.snapshot.stored_rows(group):
            return slice(start, matching if stop is None else stop) if pick_N is None else pick_N[start:stop]
        predicate = self.snapshot.predicate
        assert predicate is not None, "only a predicate makes a row group yield fewer rows than it stores"
        mask_N = predicate.mask_N(self.read(group, predicate.columns, slice(None)))
        found_N = np.flatnonzero(mask_N)
        if len(found_N) != matching:
            raise DataError(
                f"file {self.snapshot.location(group).uri!r} has {len(found_N)} matching rows in row group "
                f"{self.snapshot.group_ordinal_G[group]}, the snapshot {matching}; take the snapshot again"
            )
        return (found_N if pick_N is None else found_N[pick_N])[start:stop]

    def read(self, group: int, columns: Sequence[str], rows: slice | np.ndarray) -> pa.Table:
        """Return the stored rows `rows` of a row group. Raises as `table` does."""
        with self.open(group) as source:
            return next(self.slices(group, source, [columns], rows))

    def open(self, group: int) -> pa.NativeFile:
        """Open the file of a row group. Raises as `table` does."""
        with self.reading(group):
            return self.snapshot.location(group).open_input()

    def slices(
        self, group: int, source: pa.NativeFile, slices: Sequence[Sequence[str]], rows: slice | np.ndarray
    ) -> Iterator[pa.Table]:
        """Yield the stored rows `rows` of a row group, some columns at a time. Raises as `table` does."""
        ordinal = int(self.snapshot.group_ordinal_G[group])
        with self.reading(group):
            metadata = self.footer(group, source).metadata
            file = pq.ParquetFile(source, metadata=metadata, pre_buffer=not self.is_local)
            for columns in slices:
                stored = [name for name in columns if name not in self.snapshot.partitions]
                table = file.read_row_group(ordinal, columns=stored, use_threads=False)
                table = _rows_of(without_views(table), rows)
                if len(stored) < len(columns):
                    table = self._with_partitions(group, columns, table, _count(rows, file, ordinal))
                yield table

    @contextmanager
    def reading(self, group: int) -> Iterator[None]:
        """Turn an error inside, or a file that is not what the snapshot listed, into a DataError."""
        number = int(self.snapshot.group_file_G[group])
        try:
            yield
            self._check_unchanged(number)
        except (pa.ArrowException, OSError, ValueError) as error:
            self._check_unchanged(number)
            raise DataError(
                f"file {self.snapshot.location(group).uri!r}, row group "
                f"{self.snapshot.group_ordinal_G[group]}, cannot be read: {one_line(error)}; "
                "restore the file or take the snapshot again"
            ) from error

    def _with_partitions(self, group: int, columns: Sequence[str], table: pa.Table, rows: int) -> pa.Table:
        values = self.snapshot.partition_values(group)
        return pa.table(
            {
                name: table.column(name)
                if name not in values
                else pa.repeat(pa.scalar(values[name], self.snapshot.schema.field(name).type), rows)
                for name in columns
            }
        )

    def footer(self, group: int, source: pa.NativeFile) -> Footer:
        """Return the footer of a row group's file, which was as the snapshot listed it when it was read."""
        number = int(self.snapshot.group_file_G[group])
        with self._lock:
            footer = self._footers.get(number)
            if footer is not None:
                self._footers.move_to_end(number)
                return footer
        self._check_unchanged(number)
        footer = Footer.of(pq.ParquetFile(source).metadata)
        with self._lock:
            self._footers[number] = footer
            if len(self._footers) > FOOTERS_KEPT:
                self._footers.popitem(last=False)
        return footer

    def _check_unchanged(self, number: int) -> None:
        location, listed = self.snapshot.file_location(number), self.snapshot.files[number]
        info = location.info()
        if info.type == pafs.FileType.NotFound:
            what = "vanished"
        elif (info.size, info.mtime_ns or 0) != (listed.size_bytes, listed.mtime_ns):
            what = "changed"
        else:
            return
        raise DataError(
            f"file {location.uri!r} {what} since the snapshot {self.snapshot.id} was taken; "
            "datasets are immutable while a run reads them: write new files instead, or start a new run"
        )


def _rows_of(table: pa.Table, rows: slice | np.ndarray) -> pa.Table:
    if isinstance(rows, np.ndarray):
        return table.take(pa.array(rows))
    if rows == slice(None) or (rows.start, rows.stop) == (0, table.num_rows):
        return table
    return table.slice(rows.start, rows.stop - rows.start)


def _count(rows: slice | np.ndarray, file: pq.ParquetFile, ordinal: int) -> int:
    """Return how many of a row group's rows are selected: a table without columns does not tell."""
    if isinstance(rows, np.ndarray):
        return len(rows)
    return len(range(*rows.indices(file.metadata.row_group(ordinal).num_rows)))


def _joined(tables: Iterable[pa.Table], limit: int | None) -> Iterator[pa.Table]:
    """Yield the tables side by side, as soon as some have `limit` values; nothing is copied."""
    held: list[pa.Table] = []
    values = 0
    for table in tables:
        held.append(table)
        values += table.num_columns * table.num_rows
        if limit is not None and values >= limit:
            yield _side_by_side(held)
            held, values = [], 0
    if held:
        yield _side_by_side(held)


def _side_by_side(tables: list[pa.Table]) -> pa.Table:
    columns = [column for table in tables for column in table.itercolumns()]
    return pa.Table.from_arrays(columns, names=[name for table in tables for name in table.schema.names])


class Decoder:
    """Row groups into features and labels."""

    def __init__(self, snapshot: Snapshot, encoder: Encoder) -> None:
        self.encoder = encoder
        self._snapshot = snapshot
        names = {*encoder.names, encoder.target}
        in_file_order = [name for name in snapshot.schema.names if name in names]
        missing = names.difference(in_file_order)
        self._reader = RowGroupReader(snapshot, [*in_file_order, *sorted(missing)])
        self._direct = DirectColumns(
            snapshot.schema, snapshot.partitions, encoder, local=self._reader.is_local
        )

    @property
    def row_bytes(self) -> int:
        """Return the bytes of one decoded row with its label."""
        return self.encoder.row_bytes + np.dtype(self.encoder.label_dtype).itemsize

    def empty(self, rows: int) -> tuple[Features, np.ndarray]:
        """Return uninitialised features and labels of `rows` rows."""
        return self.encoder.empty(rows), np.empty(rows, self.encoder.label_dtype)

    def empty_rows(self, rows: int, *, weighted: bool = False) -> Rows:
        """Return uninitialised rows, with room for weights if `weighted`."""
        features, labels_N = self.empty(rows)
        return Rows(features, labels_N, np.empty(rows, np.float32) if weighted else None)

    def decode_into(
        self,
        group: int,
        start: int,
        stop: int,
        features: Features,
        labels_N: np.ndarray,
        pick_N: np.ndarray | None = None,
    ) -> None:
        """Fill the buffers with rows [start, stop) of row group `group`. Raises DataError, file named."""
        rows = self._reader.selection(group, start, stop, pick_N)
        with self._reader.open(group) as source:
            chunks = self._read_numbers(group, source, rows, features, labels_N)
            slices = self._slices(self._snapshot.stored_rows(group), chunks.names)
            limit = None if (stop - start) * self.row_bytes <= DIRECT_BYTES else PLACED_VALUES
            tiled = bool(chunks.names)
            for table in _joined(self._reader.slices(group, source, slices, rows), limit) if slices else ():
                with self._naming(group):
                    self.encoder.encode_into(table, features, tiled=tiled)
                    if self.encoder.target in table.schema.names:
                        labels_N[:] = self.encoder.encode_labels(table.column(self.encoder.target))
        self.encoder.finish(features, tiled=tiled)

    def _read_numbers(
        self,
        group: int,
        source: pa.NativeFile,
        rows: slice | np.ndarray,
        features: Features,
        labels_N: np.ndarray,
    ) -> Chunks:
        """Read the columns that need no table, and return them."""
        with self._reader.reading(group):
            footer, ordinal = self._reader.footer(group, source), int(self._snapshot.group_ordinal_G[group])
            chunks = self._direct.plan(footer, ordinal, self._reader.columns)
            nulls_C = self._direct.read(source, chunks, rows, features, labels_N)
        with self._naming(group):
            self._direct.refuse_nulls(chunks, nulls_C)
        return chunks

    @contextmanager
    def _naming(self, group: int) -> Iterator[None]:
        """Name the file and the row group in a DataError."""
        try:
            yield
        except DataError as error:
            ordinal, location = self._snapshot.group_ordinal_G[group], self._snapshot.location(group)
            raise DataError(f"file {location.uri!r}, row group {ordinal}: {error}") from error

    def _slices(self, rows: int, done: Sequence[str]) -> list[list[str]]:
        """Return the columns that are not done in runs whose decoded values take a few megabytes at most."""
        slices: list[list[str]] = []
        size, limit = 0, LOCAL_SLICE_BYTES if self._reader.is_local else REMOTE_SLICE_BYTES
        for name in self._reader.columns:
            if name in done:
                continue
            column_bytes = rows * self.encoder.column_bytes(name)
            if not slices or size + column_bytes > limit:
                slices.append([])
                size = 0
            slices[-1].append(name)
            size += column_bytes
        return slices
