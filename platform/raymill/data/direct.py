"""Columns of numbers, decoded from a file's pages straight into rows, without Arrow's tables between.

`raymill_parquet` does it, where Raymill was installed beside the pyarrow that runs; else, and for every
other column, tables do the same, to the bit. Which column goes which way is told by its type and by what
the footer says of its pages, never by trying.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymill.columns import refuse_nulls
from raymill.features import Encoder, Features
from raymill.kernels import tile_rows

try:
    import raymill_parquet as compiled
except ImportError as error:  # no such module, or none for this pyarrow
    compiled = None
    logging.getLogger(__name__).warning(
        "raymill_parquet cannot be used with pyarrow %s (%s), reading Parquet takes about a third as long "
        "again; `pip install` Raymill on this machine with a C++ compiler, beside this pyarrow",
        pa.__version__,
        error,
    )

LOCAL_READ_BYTES = 1 << 19  # half a core's second-level cache
REMOTE_READ_BYTES = 16 << 20  # where every read waits for the network
REMOTE_GAP_BYTES = 1 << 16  # sooner read than asked for again
EXACT = 1 << 24  # integers up to here are exact in float32

CODECS = {"UNCOMPRESSED": 0, "SNAPPY": 1, "GZIP": 2, "BROTLI": 3, "ZSTD": 4, "LZ4": 5}
ENCODINGS = frozenset({"PLAIN", "RLE", "RLE_DICTIONARY", "PLAIN_DICTIONARY"})
KINDS: dict[tuple[pa.DataType, str], int] = {
    (pa.float32(), "FLOAT"): 0,
    (pa.float64(), "DOUBLE"): 1,
    **{(kind, "INT32"): 2 for kind in (pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16())},
    (pa.uint32(), "INT32"): 3,
    (pa.int64(), "INT64"): 4,
    (pa.uint64(), "INT64"): 5,
    (pa.bool_(), "BOOLEAN"): 6,
}
WIDE = frozenset({pa.int32(), pa.uint32(), pa.int64(), pa.uint64()})

# C = column chunks, N = rows


@dataclass(frozen=True)
class Footer:
    """A file's metadata, and the number of each of its flat columns."""

    metadata: pq.FileMetaData
    flat: dict[str, tuple[int, int]]
    """Number, and 1 if it may hold nulls."""

    @staticmethod
    def of(metadata: pq.FileMetaData) -> Footer:
        leaves = [metadata.schema.column(i) for i in range(metadata.num_columns)]
        return Footer(
            metadata,
            {
                leaf.path: (i, leaf.max_definition_level)
                for i, leaf in enumerate(leaves)
                if leaf.max_repetition_level == 0
                and leaf.max_definition_level <= 1
                and leaf.path == leaf.name
            },
        )


@dataclass(frozen=True)
class Chunks:
    """What of a row group is decoded directly."""

    names: list[str]
    fields_C: np.ndarray
    """int64 [C, 9]: `Chunk` of columns.hpp."""
    fills_C: np.ndarray
    """float32: what stands for a null."""


class DirectColumns:
    """Reads those columns of a row group that are numbers, as far as the encoder takes them so."""

    def __init__(
        self, schema: pa.Schema, partitions: Iterable[str], encoder: Encoder, *, local: bool
    ) -> None:
        self._encoder, self._local = encoder, local
        self._types = {name: schema.field(name).type for name in schema.names if name not in set(partitions)}
        self._columns = {
            column.name: column
            for column in encoder.columns
            if column.kind == "numeric" and column.width == 1 and column.origin_us is None
        }
        self._readers: queue.SimpleQueue[compiled.Reader] = (
            queue.SimpleQueue()
        )  # each serves one thread at a time

    def plan(self, footer: Footer, ordinal: int, names: Sequence[str]) -> Chunks:
        """Return which of the named columns of a row group are read here, in the file's order."""
        group = footer.metadata.row_group(ordinal)
        found = []
        for name in names if compiled is not None else ():
            fields = self._chunk(footer, group, name)
            if fields is not None:
                found.append((fields, name))
        found.sort()
        fields_C = np.array([fields for fields, _ in found], np.int64).reshape(-1, 9)
        self._join(fields_C)
        with np.errstate(over="ignore"):
            fills_C = np.array([self._fill(name) for _, name in found], np.float32)
        return Chunks([name for _, name in found], fields_C, fills_C)

    def _chunk(self, footer: Footer, group: pq.RowGroupMetaData, name: str) -> list[int] | None:
        """Return the fields of a column's chunk, or None if it is not read here."""
        arrow_type = self._types.get(name)
        is_label = name == self._encoder.target
        known = name in self._columns or (is_label and self._encoder.task != "multiclass")
        if not known or name not in footer.flat:
            return None
        number, nullable = footer.flat[name]
        chunk = group.column(number)
        kind = KINDS.get((arrow_type, chunk.physical_type))
        codec = CODECS.get(chunk.compression)
        if kind is None or codec is None or not ENCODINGS.issuperset(chunk.encodings):
            return None
        if is_label and arrow_type in WIDE and not _is_exact(chunk.statistics):
            return None
        start = chunk.data_page_offset
        if chunk.has_dictionary_page and chunk.dictionary_page_offset:  # some writers say 0 for none
            start = min(start, chunk.dictionary_page_offset)
        size, place = chunk.total_compressed_size, 0 if is_label else self._encoder.place(name).start
        return [start, size, start + size, codec, kind, nullable, group.num_rows, int(is_label), place]

    def _join(self, fields_C: np.ndarray) -> None:
        """Let chunks that lie next to each other be read together."""
        gap = 0 if self._local else REMOTE_GAP_BYTES
        for i in range(len(fields_C) - 2, -1, -1):
            if 0 <= fields_C[i + 1, 0] - fields_C[i, 2] <= gap:
                fields_C[i, 2] = fields_C[i + 1, 2]

    def _fill(self, name: str) -> float:
        return self._columns[name].fill if name in self._columns else float("nan")

    def read(
        self,
        source: pa.NativeFile,
        chunks: Chunks,
        rows: slice | np.ndarray,
        out: Features,
        labels_N: np.ndarray,
    ) -> np.ndarray:
        """Fill the chunks' places in blocks of `tile_rows` rows; return the nulls of each, int64 [C].

        Raises:
            ValueError: the file's bytes break the format.
        """

        def read(position: int, view: memoryview) -> int:
            source.seek(position)
            return int(source.readinto(view))

        nulls_C = np.zeros(len(chunks.names), np.int64)
        if not chunks.names:
            return nulls_C
        numeric_NF = out.numeric_NF
        labels_N = labels_N if labels_N.dtype == np.float32 else np.empty(len(labels_N), np.float32)
        start, stop = (rows.start, rows.stop) if isinstance(rows, slice) else (0, 0)
        pick_N = None if isinstance(rows, slice) else np.ascontiguousarray(rows, np.int64)
        reader = self._reader()
        reader.read(
            read, chunks.fields_C, chunks.fills_C, nulls_C, numeric_NF, labels_N, tile_rows(numeric_NF),
            start, stop, pick_N, LOCAL_READ_BYTES if self._local else REMOTE_READ_BYTES,
        )  # fmt: skip
        self._readers.put(reader)
        return nulls_C

    def _reader(self) -> compiled.Reader:
        try:
            return self._readers.get_nowait()
        except queue.Empty:
            return compiled.Reader()

    def refuse_nulls(self, chunks: Chunks, nulls_C: np.ndarray) -> None:
        """Raise DataError as the encoder does, for the first column that must not hold those it has."""
        for name, count in zip(chunks.names, nulls_C.tolist(), strict=True):
            if name in self._columns:
                refuse_nulls(self._columns[name], count)
            else:
                self._encoder.refuse_null_labels(count)


def _is_exact(statistics: pq.Statistics | None) -> bool:
    """Whether all integers of a chunk are exact in float32; tables refuse others."""
    if statistics is None or not statistics.has_min_max:
        return False
    return bool(statistics.min >= -EXACT and statistics.max <= EXACT)
