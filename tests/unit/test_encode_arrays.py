"""Columns as numpy arrays, as binary protocols and gRPC bring them, encode as plain values do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.errors import InvalidInput
from raymill.features import Encoder, FittedColumn
from raymill.serving import json_columns

DTYPES = [
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "float16",
    "float32",
    "float64",
    "bool",
]


def one(dtype: str, **changes: Any) -> Encoder:
    settings = {"name": "x", "kind": "numeric", "dtype": dtype, "nulls": "error", "null_count": 0} | changes
    return Encoder(columns=(FittedColumn(**settings),), target="y", task="regression")


@given(st.sampled_from(DTYPES), st.data(), st.sampled_from([1, 2, 30]), st.sampled_from([1, 3]))
def test_arrays_encode_as_their_values_do(dtype: str, data: Any, rows: int, width: int) -> None:
    if dtype == "bool":
        element: Any = st.booleans()
    elif dtype.startswith("float"):
        size = 16 if dtype == "float16" else 32
        element = st.floats(width=size, allow_nan=False, allow_infinity=False)
    else:
        limits = np.iinfo(dtype)
        element = st.integers(int(limits.min), int(limits.max))
    shape = (rows,) if width == 1 else (rows, width)
    count = rows * width
    values = data.draw(st.lists(element, min_size=count, max_size=count))
    array_N = np.asarray(values, dtype).reshape(shape)
    encoder = one(dtype, width=width)
    by_array = encoder.encode_columns({"x": array_N})
    by_value = encoder.encode_columns({"x": array_N.tolist()})
    np.testing.assert_array_equal(by_array.numeric_NF, by_value.numeric_NF)


@pytest.mark.parametrize("big", [3e38, np.inf])
def test_numbers_whose_sum_is_not_finite_are_judged_one_by_one(big: float) -> None:
    """Both signs and one: all are looked at together first."""
    for values in ([big, big], [big, -big]):
        given = {"x": np.array(values, np.float32)}
        if np.isfinite(big):
            assert one("float32").encode_columns(given).numeric_NF[:, 0].tolist() == given["x"].tolist()
        else:
            with pytest.raises(InvalidInput, match="row 0: inf"):
                one("float32").encode_columns(given)


@pytest.mark.parametrize(
    ("column", "array"),
    [
        ("float32", "float64"),
        ("float64", "float32"),
        ("float32", "int64"),
        ("int32", "int8"),
        ("int16", "uint8"),
    ],
)
def test_arrays_of_a_type_that_fits_are_taken(column: str, array: str) -> None:
    values_N = np.arange(5).astype(array)
    assert one(column).encode_columns({"x": values_N}).numeric_NF[:, 0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("int8", np.array([1, 128]), "row 1: 128 is outside the range of int8"),
        ("uint8", np.array([-1], np.int8), "row 0: -1 is outside the range of uint8"),
        ("int32", np.array([0.5, 1.5]), "row 0: expected int32, got float 0.5"),
        ("bool", np.array([0, 1]), "row 0: expected bool, got int"),
        ("float32", np.array([True]), "row 0: expected float32, got bool"),
        ("float32", np.array(["1"]), "row 0: expected float32, got str"),
        ("float32", np.array([0.0, 1e39]), "row 1: 1e.39 is outside the range of float32"),
        ("float16", np.array([0.0, 7e4], np.float32), "row 1: 70000.0 is outside the range of float16"),
        ("float32", np.array([0.0, np.inf], np.float32), "row 1: inf is outside"),
        ("float32", np.array([np.inf], np.float32), "row 0: inf is outside"),
        ("float32", np.array([0.0, 0.0, np.nan]), "row 2: nan is outside"),
        ("float32", np.array([[1.0], [2.0]]), "row 0: expected float32, got list"),
        ("float32", np.array([None, 1.0], object), "row 0: null, but this input has no null policy"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_with_row_and_value(column: str, values: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        one(column).encode_columns({"x": values})


@pytest.mark.parametrize("layout", ["strided", "big-endian", "unaligned", "fortran", "long double"])
def test_floats_encode_alike_however_they_lie(layout: str) -> None:
    values_NW = np.arange(12, dtype=np.float64).reshape(4, 3) / 7
    given_NW = {
        "strided": np.repeat(values_NW, 2, axis=1)[:, ::2],
        "big-endian": values_NW.astype(">f4"),
        "unaligned": np.ndarray((4, 3), "<f4", b"." + values_NW.astype("<f4").tobytes(), 1),
        "fortran": np.asfortranarray(values_NW),
        "long double": values_NW.astype(np.longdouble),
    }[layout]
    found = one("float32", width=3).encode_columns({"x": given_NW}).numeric_NF
    np.testing.assert_array_equal(found, values_NW.astype(np.float32))


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_vectors_that_are_arrays_each_are_judged_too(bad: float) -> None:
    encoder, rows = one("float32", width=2), [np.array([1.0, 2.0]), np.array([3.0, bad])]
    for values in (rows, np.array(rows)):
        with pytest.raises(InvalidInput, match=r"row 1, element 1: .* is outside the range"):
            encoder.encode_columns({"x": values})
    assert encoder.encode_columns({"x": rows[:1] * 2}).numeric_NF.tolist() == [[1.0, 2.0], [1.0, 2.0]]


@pytest.mark.parametrize("width", [1, 2])
def test_nan_is_null_in_columns_with_a_policy(width: int) -> None:
    values = np.array([[1.0, np.nan], [np.nan, 4.0]], np.float32)[:, :width]
    values = values[:, 0] if width == 1 else values
    filled = one("float32", nulls=7.5, width=width).encode_columns({"x": values}).numeric_NF
    assert filled.tolist() == ([[1.0], [7.5]] if width == 1 else [[1.0, 7.5], [7.5, 4.0]])
    listed = one("float32", nulls=7.5, width=width).encode_columns({"x": values.tolist()}).numeric_NF
    assert listed.tolist() == filled.tolist()
    assert one("int8", nulls=7.5).encode_columns({"x": [1, np.nan]}).numeric_NF.tolist() == [[1.0], [7.5]]
    open_ = one("float32", nulls="mean", width=width).encode_columns({"x": values}).numeric_NF
    np.testing.assert_array_equal(np.isnan(open_).reshape(values.shape), np.isnan(values))
    with pytest.raises(InvalidInput, match="inf is outside the range"):
        one("float32", nulls="mean").encode_columns({"x": np.array([np.nan, -np.inf])})


def test_times_and_categories_come_as_arrays_too() -> None:
    time = one("int64", origin_us=1_000_000).encode_columns({"x": np.array([3_000_000, 1_500_000])})
    assert time.numeric_NF[:, 0].tolist() == [2.0, 0.5]
    ends = np.iinfo(np.int64)
    for values in ([ends.min, ends.max], [ends.max, ends.min]):
        far = one("int64", origin_us=1_600_000_000_000_000).encode_columns({"x": np.array(values)})
        listed = one("int64", origin_us=1_600_000_000_000_000).encode_columns({"x": values})
        np.testing.assert_array_equal(far.numeric_NF, listed.numeric_NF)
    known = {"kind": "categorical", "nulls": "unknown"}
    texts = one("string", vocabulary=("a", "b"), **known)
    words = np.array(["b", None, "zz", "a"], object)
    assert texts.encode_columns({"x": words}).codes_NC[:, 0].tolist() == [2, 0, 0, 1]
    numbers = one("int16", vocabulary=(3, 0), **known)
    assert numbers.encode_columns({"x": np.array([0, 3, 9], np.int16)}).codes_NC[:, 0].tolist() == [2, 1, 0]
    assert numbers.encode_columns({"x": np.array([9, 3])}).codes_NC[:, 0].tolist() == [0, 1]
    for beyond in (np.array([3, 40_000]), [3, -(10**12)], [3.0, 1e30], np.array([3, 2**63], np.uint64)):
        with pytest.raises(InvalidInput, match=r"input 'x', row 1: .* is outside the range of int16"):
            numbers.encode_columns({"x": beyond})
    with pytest.raises(InvalidInput, match="row 0: expected string, got bytes"):
        texts.encode_columns({"x": np.array([b"a"], object)})


@pytest.mark.parametrize("dtype", ["int8", "int64"])
def test_a_whole_float_is_an_integer_as_json_does_not_tell_them_apart(dtype: str) -> None:
    for values in ([2.0, 3], [2.0]):
        assert one(dtype).encode_columns({"x": values}).numeric_NF[:, 0].tolist() == values
    category = one(dtype, kind="categorical", vocabulary=(7, 2))
    assert category.encode_columns({"x": [2.0, 7]}).codes_NC[:, 0].tolist() == [2, 1]
    with pytest.raises(InvalidInput, match=r"row 0: expected int\d+, got float 2.5"):
        one(dtype).encode_columns({"x": [2.5]})
    with pytest.raises(InvalidInput, match=r"row 0: expected bool, got float 1\.0"):
        one("bool").encode_columns({"x": [1.0]})


@pytest.mark.parametrize("intruder", [True, False, None, "1", [1.0]])
@pytest.mark.parametrize("rows", [8, json_columns.FEW - 1, json_columns.FEW, 1000])
def test_a_json_list_becomes_an_array_where_all_of_it_are_numbers(rows: int, intruder: Any) -> None:
    signature, numbers = one("float32").signature(), [0.0, 1, 0, 1.0, 0.5] * rows
    numbers = numbers[:rows]
    found = json_columns.arrays({"x": numbers}, signature)["x"]
    assert isinstance(found, np.ndarray)
    assert found.tolist() == numbers
    for place in (0, rows // 2, rows - 1):
        spoiled = [*numbers[:place], intruder, *numbers[place + 1 :]]
        assert json_columns.arrays({"x": spoiled}, signature)["x"] is spoiled
