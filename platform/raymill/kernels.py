"""The loader's inner loops: compiled where Raymill was installed with a C compiler, else in numpy.

Both give the same, to the bit. Columns of a few megabytes are best held until all are there, and become
rows in one step, each written once. Where there are more, they become rows in two steps, so that memory is
written in long runs: `stack` puts each column into blocks of rows, column after column, as it is decoded;
`weave` then turns every block, small enough for a core's cache, into rows where it stands.

The compiled module is `raymill_kernels`, beside this package and not in it: a job's upload carries the
package to the nodes, whatever they run on, and each node has the compiled part from its own installation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np

try:
    import raymill_kernels as compiled
except ImportError:
    compiled = None
if not hasattr(compiled, "place"):  # the newest of its functions
    compiled = None
    logging.getLogger(__name__).warning(
        "raymill_kernels is not installed, or of an older Raymill: reading Parquet takes about half as long "
        "again; `pip install` this Raymill on this machine with a C compiler"
    )

BLOCK_WORDS = 1 << 15  # 128 KiB: block and tile fit a core's second-level cache
DIRECT_BYTES = 8 << 20  # matrices this small are filled by all their columns at once, without blocks
LINE_WORDS = 16
MAX_COLUMNS = 64  # at once
RANDOM_AT_ONCE = 1 << 16  # numbers of 8 bytes

# N = rows, F = places of a row, W = places of one column, M = rows taken


def tile_rows(out_NF: np.ndarray) -> int:
    """Return the rows of a block of the matrix, an odd number of cache lines a column.

    Columns of a block then do not fall on the same sets of the cache.
    """
    lines = max(1, BLOCK_WORDS // max(1, int(out_NF.shape[1])) // LINE_WORDS)
    return (lines - 1 | 1) * LINE_WORDS


def block_rows(out_NF: np.ndarray) -> int:
    """Return the rows of a block of the matrix if its columns all come at once, 0 for no blocks."""
    return 0 if out_NF.nbytes <= DIRECT_BYTES else tile_rows(out_NF)


def permute(generator: np.random.Generator, rows: int) -> np.ndarray:
    """Return a random permutation of range(rows): int32 [rows], equal for equal generators.

    Fisher and Yates by one 64-bit number a row; compiled, five times as fast as numpy's own shuffle.

    Raises:
        ValueError: 2**31 rows or more.
    """
    order_N = np.arange(rows, dtype=np.int32)
    run = _permute if compiled is None else compiled.permute
    for stop in range(rows, 0, -RANDOM_AT_ONCE):
        first = max(stop - RANDOM_AT_ONCE, 0)
        run(generator.bit_generator.random_raw(stop - first), order_N, first)
    return order_N


def stack(columns: Sequence[np.ndarray], out_NF: np.ndarray, first: int, rows: int) -> None:
    """Write columns side by side into places `first` on of the matrix, to be woven when all are there.

    Args:
        columns: Contiguous float32 or int32, [N] or [N, W].
        out_NF: C-contiguous matrix of as many rows, of 4-byte values.
        rows: Of a block, as `block_rows` or `tile_rows` says; the same for all columns, and for `weave`.

    Raises:
        ValueError: another number of rows, places outside the matrix, or another size of value.
    """
    run = _stack if compiled is None else compiled.stack
    if len(columns) <= MAX_COLUMNS:
        run(columns, out_NF, first, rows)
        return
    for start in range(0, len(columns), MAX_COLUMNS):
        some = columns[start : start + MAX_COLUMNS]
        run(some, out_NF, first, rows)
        first += sum(_width(column) for column in some)


def weave(out_NF: np.ndarray, widths: np.ndarray, rows: int) -> None:
    """Turn the matrix, all of whose columns were stacked, into rows, in place.

    Args:
        widths: int32, places of each column, in their order.
        rows: Of a block, as given to `stack`.

    Raises:
        ValueError: widths that do not add up to the places.
    """
    if rows and len(widths) > 1:
        (_weave if compiled is None else compiled.weave)(out_NF, widths, rows)


def place(columns: list[np.ndarray], firsts: list[int], out_NF: np.ndarray) -> bool:
    """Write columns of floats into a float32 matrix; returns whether all are finite as float32.

    Args:
        columns: Contiguous float32 or float64, [N] or [N, W], at any address.
        firsts: The first place of each.

    Raises:
        ValueError: another number of rows, places outside the matrix, or another dtype.
    """
    return _place(columns, firsts, out_NF) if compiled is None else compiled.place(columns, firsts, out_NF)


def gather(source: np.ndarray, order_M: np.ndarray) -> np.ndarray:
    """Return the rows numbered `order_M` of a contiguous array [N] or [N, F] of 4- or 8-byte values.

    Raises:
        IndexError: a row outside the source.
    """
    if compiled is None:
        return source.take(order_M, axis=0)
    out = np.empty((len(order_M), *source.shape[1:]), source.dtype)
    compiled.gather(_words(source), order_M.astype(np.int32, copy=False), _words(out))
    return out


def _words(array: np.ndarray) -> np.ndarray:
    """Return a view of 4-byte values."""
    return array if array.itemsize == 4 else array.reshape(len(array), -1).view(np.int32)


def _permute(random_M: np.ndarray, order_N: np.ndarray, first: int) -> None:
    order = order_N.tolist()
    for i, random in reversed(list(enumerate(random_M.tolist(), first))):
        j = random * (i + 1) >> 64
        order[i], order[j] = order[j], order[i]
    order_N[:] = order


def _blocks(out_NF: np.ndarray, rows: int) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, len(out_NF), rows):
        these = slice(start, min(start + rows, len(out_NF)))
        yield these, out_NF[these].reshape(-1)


def _width(column: np.ndarray) -> int:
    return 1 if column.ndim == 1 else int(column.shape[1])


def _stack(columns: Sequence[np.ndarray], out_NF: np.ndarray, first: int, rows: int) -> None:
    for column in columns:
        width = _width(column)
        if len(column) != len(out_NF) or not 0 <= first <= out_NF.shape[1] - width:
            raise ValueError("columns must have the matrix's rows and lie inside its places")
        if rows == 0:
            out_NF[:, first : first + width] = column.reshape(len(column), width).view(out_NF.dtype)
        for these, block in _blocks(out_NF, rows) if rows else ():
            count = these.stop - these.start
            block[first * count : (first + width) * count] = column[these].reshape(-1).view(block.dtype)
        first += width


def _place(columns: list[np.ndarray], firsts: list[int], out_NF: np.ndarray) -> bool:
    finite = True
    with np.errstate(over="ignore", invalid="ignore"):
        for column, first in zip(columns, firsts, strict=True):
            width = _width(column)
            if column.dtype not in (np.float32, np.float64):
                raise ValueError("columns must be float32 or float64")
            if len(column) != len(out_NF) or not 0 <= first <= out_NF.shape[1] - width:
                raise ValueError("columns must have the matrix's rows and lie inside its places")
            placed = out_NF[:, first : first + width]
            placed[:] = column.reshape(len(column), width)
            finite = finite and bool(np.isfinite(placed).all())
    return finite


def _weave(out_NF: np.ndarray, widths: np.ndarray, rows: int) -> None:
    if widths.sum() != out_NF.shape[1]:
        raise ValueError("widths must be positive and add up to the matrix's places")
    for these, block in _blocks(out_NF, rows):
        tile, place = block.copy(), 0
        for width in widths.tolist():
            count = these.stop - these.start
            column = tile[place * count : (place + width) * count]
            out_NF[these, place : place + width] = column.reshape(count, width)
            place += width
