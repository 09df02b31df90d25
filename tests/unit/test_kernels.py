"""The compiled inner loops give what numpy gives, to the bit, and refuse what does not fit."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill import kernels

ROWS, WIDTHS = st.integers(0, 400), st.lists(st.integers(1, 5), min_size=1, max_size=9)


def test_the_compiled_module_is_installed():
    assert kernels.compiled is not None, "run `make setup`: the loader would take half as long again"


def test_a_compiled_part_of_an_older_raymill_is_left_alone():
    """A job's upload brings this package to nodes whose installation may be an older one's."""
    code = (
        "import sys, types; sys.modules['raymill_kernels'] = types.ModuleType('raymill_kernels'); "
        "from raymill import kernels; assert kernels.compiled is None"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "older Raymill" in done.stderr


def table(rows: int, widths: list[int], seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Return columns of these widths and the matrix that has them side by side."""
    whole = np.random.default_rng(seed).standard_normal((rows, sum(widths))).astype(np.float32)
    ends = np.cumsum([0, *widths])
    columns = [np.ascontiguousarray(whole[:, a:b]) for a, b in itertools.pairwise(ends)]
    return [column[:, 0].copy() if column.shape[1] == 1 else column for column in columns], whole


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("direct_bytes", [0, 1 << 30])
@given(rows=ROWS, widths=WIDTHS, at_once=st.integers(1, 4))
def test_columns_become_rows(compiled, direct_bytes, rows, widths, at_once):
    columns, expected = table(rows, widths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "DIRECT_BYTES", direct_bytes)
        patch.setattr(kernels, "BLOCK_WORDS", 64 * sum(widths))
        if not compiled:
            patch.setattr(kernels, "compiled", None)
        out = np.full_like(expected, np.nan)
        first = 0
        for start in range(0, len(columns), at_once):
            some = columns[start : start + at_once]
            kernels.stack(some, out, first, kernels.block_rows(out))
            first += sum(widths[start : start + at_once])
        kernels.weave(out, np.array(widths, np.int32), kernels.block_rows(out))
    np.testing.assert_array_equal(out, expected)


def test_more_columns_than_fit_at_once():
    columns, expected = table(7, [1] * 200)
    out = np.empty_like(expected)
    kernels.stack(columns, out, 0, kernels.block_rows(out))
    kernels.weave(out, np.ones(200, np.int32), kernels.block_rows(out))
    np.testing.assert_array_equal(out, expected)


@given(rows=st.integers(0, 300), seed=st.integers(0, 9), at_once=st.sampled_from([1, 7, 64, 1 << 16]))
def test_a_permutation_is_one_and_the_same_as_in_python(rows, seed, at_once):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "RANDOM_AT_ONCE", at_once)
        found = kernels.permute(np.random.default_rng(seed), rows)
        patch.setattr(kernels, "compiled", None)
        np.testing.assert_array_equal(found, kernels.permute(np.random.default_rng(seed), rows))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(np.sort(found), np.arange(rows))


def test_every_row_comes_to_every_place_equally_often():
    rows, draws = 6, 6000
    generator = np.random.default_rng(0)
    counts = np.zeros((rows, rows))
    for _ in range(draws):
        counts[np.arange(rows), kernels.permute(generator, rows)] += 1
    expected = draws / rows
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(
    rows=ROWS,
    widths=WIDTHS,
    shift=st.integers(0, 7),
    bad=st.sampled_from([0.0, np.nan, np.inf, -np.inf, 1e39]),
)
def test_floats_are_placed_and_judged(compiled, dtype, rows, widths, shift, bad):
    columns, expected = table(rows, widths)
    if rows and bad:
        with np.errstate(over="ignore"):
            columns[-1].reshape(-1)[-1] = expected[-1, -1] = bad
    exact = [column.astype(dtype) for column in columns]
    if rows and bad == 1e39 and dtype == np.float64:
        exact[-1].reshape(-1)[-1] = bad  # beyond float32 alone
    given = [np.ndarray(c.shape, dtype, b"." * shift + c.tobytes(), shift) for c in exact]  # at any address
    firsts = np.cumsum([0, *widths])[:-1].tolist()
    order = np.random.default_rng(0).permutation(len(widths)).tolist()
    out = np.full_like(expected, 7.0)
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(kernels, "compiled", None)
        finite = kernels.place([given[j] for j in order], [firsts[j] for j in order], out)
    np.testing.assert_array_equal(out, expected)
    assert finite == (rows == 0 or not bad)


@pytest.mark.parametrize("compiled", [True, False])
def test_floats_that_do_not_fit_are_not_placed(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(kernels, "compiled", None)
    out = np.zeros((4, 2), np.float32)
    ones = np.ones(4)
    for columns, firsts in (
        ([np.ones(3)], [0]), ([ones], [2]), ([ones], [-1]), ([np.ones((4, 3))], [0]),
        ([np.ones(4, int)], [0]), ([np.ones(4, np.int32)], [0]), ([np.ones(4, np.float16)], [0]),
        ([ones], []),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"rows|float|first place|shorter"):
            kernels.place(columns, firsts, out)
    assert not out.any()


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int64, np.float64])
@pytest.mark.parametrize("shape", [(50,), (50, 1), (50, 28), (50, 0)])
def test_gather_takes_rows(dtype, shape):
    source = (np.arange(np.prod(shape)) * 3).reshape(shape).astype(dtype)
    order = np.random.default_rng(0).integers(0, 50, 70)
    found = kernels.gather(source, order)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, source[order])


@pytest.mark.parametrize("bad", [[50], [-1], [2**31 - 1]])
def test_gather_refuses_rows_outside(bad):
    with pytest.raises(IndexError):
        kernels.gather(np.zeros((50, 3), np.float32), np.array(bad))


def test_what_does_not_fit_is_refused_and_nothing_is_written():
    out = np.zeros((4, 2), np.float32)
    ones = np.ones(4, np.float32)
    for columns, first in (
        ([np.ones(3, np.float32)], 0), ([ones] * 3, 0), ([ones], 2), ([ones], -1), ([np.ones(4)], 0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"rows|places|4-byte"):
            kernels.stack(columns, out, first, 0)
    assert not out.any()
    big = np.zeros((3_000_000, 1), np.float32)
    with pytest.raises(ValueError, match="add up"):
        kernels.weave(big, np.array([1, 1], np.int32), kernels.block_rows(big))
