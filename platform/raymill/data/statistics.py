"""Smallest values of columns in every row group, from the footers: what stratified samples order by."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymill.data.snapshot import Snapshot
from raymill.errors import DataError, SpecError, nearest

FOOTER_THREADS = 16


def with_statistics(snapshot: Snapshot, columns: Sequence[str]) -> Snapshot:
    """Return `snapshot` with the rank of each row group by the smallest value of each of `columns`.

    Partition columns need none and are passed over.

    Raises:
        SpecError: no such column.
        DataError: the files hold no statistics of it.
    """
    wanted = [name for name in columns if name not in snapshot.partitions]
    for name in wanted:
        if name not in snapshot.schema.names:
            raise SpecError(
                f"column {name!r} is not in the data; have: {', '.join(snapshot.schema.names)}."
                f"{nearest(name, snapshot.schema.names)}"
            )
    if not wanted:
        return snapshot
    with ThreadPoolExecutor(FOOTER_THREADS, thread_name_prefix="statistics") as pool:
        found = list(pool.map(lambda number: _minima(snapshot, number, wanted), range(len(snapshot.files))))
    ranks = {
        name: _ranks(snapshot, name, [value for minima in found for value in minima[name]]) for name in wanted
    }
    return replace(snapshot, statistics={**snapshot.statistics, **ranks})


def _minima(snapshot: Snapshot, number: int, names: Sequence[str]) -> dict[str, list[object]]:
    """Return the smallest value of each column in each row group of a file; None where it has none."""
    with snapshot.file_location(number).open_input() as source:
        footer = pq.read_metadata(source)
    minima: dict[str, list[object]] = {name: [] for name in names}
    for i in range(footer.num_row_groups):
        group = footer.row_group(i)
        chunks = {group.column(j).path_in_schema: group.column(j) for j in range(group.num_columns)}
        for name in names:
            statistics = chunks[name].statistics if name in chunks else None
            minima[name].append(statistics.min if statistics and statistics.has_min_max else None)
    return minima


def _ranks(snapshot: Snapshot, name: str, values: list[object]) -> np.ndarray:
    """Return int64 [G]: equal ranks for equal values, row groups without a value last, as Arrow ranks."""
    array = pa.array(values)
    if array.null_count == len(array):
        raise DataError(
            f"the files of {snapshot.root.uri!r} hold no statistics of column {name!r}; write them with "
            "statistics, or stratify by a partition folder"
        )
    return np.asarray(pc.rank(array, tiebreaker="dense").to_numpy().astype(np.int64))
