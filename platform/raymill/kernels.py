"""The loader's inner loops: compiled where Raymill was installed with a C compiler, else in numpy.

Both give the same, to the bit. Columns become rows in two steps, so that memory is written in long runs
whatever the size of a row group: `stack` puts each column into blocks of rows, column after column, as it
is decoded; `weave` then turns every block, small enough for a core's cache, into rows where it stands.

The compiled module is `raymill_kernels`, beside this package and not in it: a job's upload carries the
package to the nodes, whatever they run on, and each node has the compiled part from its own installation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np

try:
    import raymill_kernels as compiled
except ImportError:
    compiled = None
    logging.getLogger(__name__).warning(
        "raymill_kernels is not installed, reading Parquet takes about half as long again; "
        "`pip install` Raymill on this machine with a C compiler"
    )

BLOCK_WORDS = 1 << 16  # 256 KiB: block and tile fit a core's second-level cache
LINE_WORDS = 16

# N = rows, F = places of a row, W = places of one column, M = rows taken


def block_rows(words: int) -> int:
    """Return the rows of a block of rows of `words` 4-byte values: an odd number of cache lines a column.

    Columns of a block then do not fall on the same sets of the cache.
    """
    lines = max(1, BLOCK_WORDS // max(words, 1) // LINE_WORDS)
    return (lines - 1 | 1) * LINE_WORDS


def permute(generator: np.random.Generator, rows: int) -> np.ndarray:
    """Return a random permutation of range(rows): int32 [rows], equal for equal generators.

    Fisher and Yates by one 64-bit number a row; compiled, five times as fast as numpy's own shuffle.

    Raises:
        ValueError: 2**31 rows or more.
    """
    random_N = generator.bit_generator.random_raw(rows)
    if compiled is None:
        return _permute(random_N)
    order_N = np.empty(rows, np.int32)
    compiled.permute(random_N, order_N)
    return order_N


def stack(column: np.ndarray, out_NF: np.ndarray, first: int) -> None:
    """Write a column into places `first` on of the blocks of `out_NF`, to be woven when all are there.

    Args:
        column: Contiguous float32 or int32, [N] or [N, W].
        out_NF: C-contiguous matrix of as many rows, of 4-byte values.

    Raises:
        ValueError: another number of rows, places outside the matrix, or another size of value.
    """
    (_stack if compiled is None else compiled.stack)(column, out_NF, first, block_rows(out_NF.shape[1]))


def weave(out_NF: np.ndarray, widths: np.ndarray) -> None:
    """Turn the blocks of `out_NF`, all of whose columns were stacked, into rows, in place.

    Args:
        widths: int32, places of each column, in their order.

    Raises:
        ValueError: widths that do not add up to the places.
    """
    if len(widths) > 1:
        (_weave if compiled is None else compiled.weave)(out_NF, widths, block_rows(out_NF.shape[1]))


def gather(source_NF: np.ndarray, order_M: np.ndarray) -> np.ndarray:
    """Return the rows numbered `order_M` (int32) of a C-contiguous matrix of 4-byte values: [M, F].

    Raises:
        IndexError: a row outside the source.
    """
    if compiled is None:
        return source_NF.take(order_M, axis=0)
    out_MF = np.empty((len(order_M), source_NF.shape[1]), source_NF.dtype)
    compiled.gather(source_NF, order_M, out_MF)
    return out_MF


def _permute(random_N: np.ndarray) -> np.ndarray:
    order = list(range(len(random_N)))
    for i, random in reversed(list(enumerate(random_N.tolist()))[1:]):
        j = random * (i + 1) >> 64
        order[i], order[j] = order[j], order[i]
    return np.array(order, np.int32)


def _blocks(out_NF: np.ndarray, rows: int) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, len(out_NF), rows):
        these = slice(start, min(start + rows, len(out_NF)))
        yield these, out_NF[these].reshape(-1)


def _stack(column: np.ndarray, out_NF: np.ndarray, first: int, rows: int) -> None:
    width = 1 if column.ndim == 1 else column.shape[1]
    if len(column) != len(out_NF) or not 0 <= first <= out_NF.shape[1] - width:
        raise ValueError("a column must have the matrix's rows and lie inside its places")
    for these, block in _blocks(out_NF, rows):
        count = these.stop - these.start
        block[first * count : (first + width) * count] = column[these].reshape(-1).view(block.dtype)


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
