"""Arrow columns to numbers and codes, without a copy where Arrow's memory can be used as it is."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.columns import UNKNOWN_CODE, FittedColumn, is_time, refuse_nulls

# N = rows, W = width of a vector, M = vectors that are not null


_FLOAT32 = pa.float32()


def _one(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return the values in one piece; without a copy where they are, as in one row group."""
    if not isinstance(values, pa.ChunkedArray):
        return values
    return values.chunk(0) if values.num_chunks == 1 else values.combine_chunks()


def numbers(column: FittedColumn, values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return float32 [N], NaN for an open null."""
    values = _one(values)
    if values.type == _FLOAT32 and values.null_count == 0:  # as it lies there
        return np.asarray(values.to_numpy())
    refuse_nulls(column, values.null_count)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if column.origin_us is not None:
        return _seconds(column, values).astype(np.float32)
    if not pa.types.is_floating(values.type) and not (
        pa.types.is_integer(values.type) and values.null_count == 0
    ):
        values = values.cast(pa.float32(), safe=False)
    if values.null_count:
        values = pc.fill_null(values, pa.scalar(column.fill, values.type))
    return np.ascontiguousarray(values.to_numpy(zero_copy_only=False), np.float32)


def microseconds(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return int64 microseconds since 1970 UTC of dates, times, or numbers that are that already."""
    if is_time(values.type):
        zone = values.type.tz if pa.types.is_timestamp(values.type) else None
        values = values.cast(pa.timestamp("us", zone), safe=False)
    return values.cast(pa.int64())


def plain_values(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return values as a request would hold them: no dictionaries or decimals, times as microseconds."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if is_time(values.type):
        return microseconds(values)
    return values.cast(pa.float64()) if pa.types.is_decimal(values.type) else values


def without_views(table: pa.Table) -> pa.Table:
    """Return the table with text views as text: many kernels of Arrow take no views, or err on them."""
    for place, field in enumerate(table.schema):
        if pa.types.is_string_view(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(pa.large_string()))
    return table


def _seconds(column: FittedColumn, values: pa.Array) -> np.ndarray:
    """Return float64 [N]: seconds since the column's origin, NaN for null."""
    whole = microseconds(values)
    since_N = (pc.fill_null(whole, 0).to_numpy(zero_copy_only=False) - column.origin_us) * 1e-6
    if whole.null_count:
        since_N[pc.is_null(whole).to_numpy(zero_copy_only=False)] = np.nan
    return np.asarray(since_N)


def vectors(column: FittedColumn, values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return float32 [N, W] of a fixed-size list column; a null vector is filled throughout."""
    values = _one(values)
    refuse_nulls(column, values.null_count + vector_element_nulls(values))
    flat = values.flatten()  # of the vectors that are not null
    if pa.types.is_boolean(flat.type) or (flat.null_count and not pa.types.is_floating(flat.type)):
        flat = flat.cast(pa.float32(), safe=False)
    if flat.null_count:
        flat = pc.fill_null(flat, pa.scalar(column.fill, flat.type))
    found_MW = np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(-1, column.width)
    if not values.null_count:
        return np.ascontiguousarray(found_MW, np.float32)
    vectors_NW = np.full((len(values), column.width), column.fill, np.float32)
    vectors_NW[values.is_valid().to_numpy(zero_copy_only=False)] = found_MW
    return vectors_NW


def vector_element_nulls(values: pa.Array | pa.ChunkedArray) -> int:
    """Return the nulls inside vectors that are not null themselves."""
    return int(pc.list_flatten(values).null_count)


def codes(column: FittedColumn, values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return int32 [N]: places in the vocabulary from 1 on, 0 for what is not in it."""
    refuse_nulls(column, values.null_count)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    index = pc.index_in(values.cast(column.arrow_vocabulary.type), value_set=column.arrow_vocabulary)
    return np.ascontiguousarray(
        pc.fill_null(pc.add(index, 1), UNKNOWN_CODE).to_numpy(zero_copy_only=False), np.int32
    )
