"""Encoding: Arrow tables and plain columns give the same rows, for every dtype and null policy."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.errors import DataError, InvalidInput
from raymill.features import Column, Encoder, Features, FittedColumn, check_schema, input_dtype, resolve_kind

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
NUMERIC = (*INTEGERS, "float16", "float32", "float64", "bool")
CATEGORICAL = (*INTEGERS, "string")
EXACT = 1 << 53  # above it Python's int goes to float32 by way of float64 and is rounded twice


def arrow(dtype: str) -> pa.DataType:
    return {"bool": pa.bool_(), "string": pa.string()}.get(dtype) or pa.type_for_alias(dtype)


def values_of(dtype: str) -> st.SearchStrategy:
    if dtype == "string":
        return st.sampled_from(["AA", "UA", "", "ü", "never seen"])
    if dtype == "bool":
        return st.booleans()
    if dtype.startswith("float"):
        return st.floats(
            width=int(dtype[5:]), allow_nan=False, allow_infinity=False, min_value=-6e4, max_value=6e4
        )
    limits = np.iinfo(dtype)
    return st.integers(max(int(limits.min), -EXACT), min(int(limits.max), EXACT))


@st.composite
def fitted_columns(draw, name: str) -> FittedColumn:
    kind = draw(st.sampled_from(["numeric", "categorical"]))
    dtype = draw(st.sampled_from(NUMERIC if kind == "numeric" else CATEGORICAL))
    policies = ["error", "mean", -1.5] if kind == "numeric" else ["error", "unknown"]
    vocabulary: tuple = ()
    if kind == "categorical":
        known = draw(st.lists(values_of(dtype), max_size=4, unique=True))
        vocabulary = tuple(value for value in known if value != "never seen")
    return FittedColumn(
        name=name, kind=kind, dtype=dtype, nulls=draw(st.sampled_from(policies)), null_count=0,
        vocabulary=vocabulary,
    )  # fmt: skip


@st.composite
def encoders_and_columns(draw):
    columns = tuple(draw(fitted_columns(f"c{i}")) for i in range(draw(st.integers(1, 4))))
    rows = draw(st.integers(0, 6))
    data = {}
    for column in columns:
        one = values_of(column.dtype)
        if column.kind == "categorical" and column.vocabulary:
            one = st.one_of(one, st.sampled_from(column.vocabulary))
        if column.nullable:
            one = st.one_of(st.none(), one)
        data[column.name] = draw(st.lists(one, min_size=rows, max_size=rows))
    return Encoder(columns=columns, target="y", task="binary"), data


def as_table(encoder: Encoder, data) -> pa.Table:
    return pa.table({c.name: pa.array(data[c.name], arrow(c.dtype)) for c in encoder.columns})


def assert_same(a: Features, b: Features) -> None:
    np.testing.assert_array_equal(a.numeric_NF, b.numeric_NF)
    np.testing.assert_array_equal(a.codes_NC, b.codes_NC)
    for one in (a, b):
        assert (one.numeric_NF.dtype, one.codes_NC.dtype) == (np.float32, np.int32)


@settings(max_examples=200)
@given(encoders_and_columns())
def test_tables_and_plain_columns_encode_alike(case):
    encoder, data = case
    assert_same(encoder.encode_table(as_table(encoder, data)), encoder.encode_columns(data))


@given(encoders_and_columns(), st.integers(1, 4))
def test_chunks_dictionaries_and_batches_change_nothing(case, chunk):
    encoder, data = case
    table = as_table(encoder, data)
    whole = encoder.encode_table(table)
    chunked = pa.concat_tables([table.slice(i, chunk) for i in range(0, table.num_rows, chunk)] or [table])
    assert_same(encoder.encode_table(chunked), whole)
    coded = pa.table({c: table[c].combine_chunks().dictionary_encode() for c in table.column_names})
    if not any(c.dtype in ("bool", "float16") for c in encoder.columns):
        assert_same(encoder.encode_table(coded), whole)
    for batch in table.to_batches():
        assert_same(encoder.encode_table(batch), whole)


@given(encoders_and_columns())
def test_one_row_encodes_as_it_does_among_others(case):
    encoder, data = case
    whole = encoder.encode_columns(data)
    for row in range(len(whole)):
        alone = encoder.encode_columns({name: values[row : row + 1] for name, values in data.items()})
        assert_same(alone, whole.take(slice(row, row + 1)))


@given(encoders_and_columns())
def test_an_encoder_survives_json(case):
    encoder, data = case
    back = Encoder.model_validate_json(encoder.model_dump_json())
    assert back == encoder
    assert_same(back.encode_columns(data), encoder.encode_columns(data))


NUMBER = FittedColumn(name="n", kind="numeric", dtype="float32", nulls="mean", null_count=0, mean=3.0)
WHOLE = FittedColumn(name="i", kind="numeric", dtype="int16", nulls="error", null_count=0)
FLAG = FittedColumn(name="f", kind="numeric", dtype="bool", nulls=0.5, null_count=0)
WORD = FittedColumn(
    name="w", kind="categorical", dtype="string", nulls="unknown", null_count=0, vocabulary=("a", "b")
)
CODE = FittedColumn(
    name="k", kind="categorical", dtype="int64", nulls="error", null_count=0, vocabulary=(7, 9)
)
ALL = Encoder(columns=(NUMBER, WORD, WHOLE, CODE, FLAG), target="y", task="binary")


def row(**changes):
    return {"n": [1.5], "w": ["b"], "i": [4], "k": [9], "f": [True]} | {k: [v] for k, v in changes.items()}


def test_a_row_by_hand():
    features = ALL.encode_columns(row())
    assert features.numeric_NF.tolist() == [[1.5, 4.0, 1.0]]
    assert features.codes_NC.tolist() == [[2, 2]]


def test_null_policies_by_hand():
    features = ALL.encode_columns(row(n=None, w=None, f=None))
    assert np.isnan(features.numeric_NF[0, 0])  # the model's program puts the mean
    assert features.numeric_NF[0, 2] == 0.5
    assert features.codes_NC[0, 0] == 0


def test_what_training_never_saw_is_unknown():
    assert ALL.encode_columns(row(w="zz", k=8)).codes_NC.tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"i": None}, "input 'i', row 0: null, but this input has no null policy"),
        ({"k": None}, "input 'k', row 0: null, but this input has no null policy"),
        ({"i": 1.5}, "input 'i', row 0: expected int16, got float 1.5"),
        ({"i": True}, "input 'i', row 0: expected int16, got bool True"),
        ({"n": "1.5"}, "input 'n', row 0: expected float32, got str '1.5'"),
        ({"n": True}, "input 'n', row 0: expected float32, got bool True"),
        ({"f": 1}, "input 'f', row 0: expected bool, got int 1"),
        ({"w": 3}, "input 'w', row 0: expected string, got int 3"),
        ({"w": ["a"]}, "input 'w', row 0: expected string, got list ['a']"),
        ({"k": "7"}, "input 'k', row 0: expected int64, got str '7'"),
        ({"k": True}, "input 'k', row 0: expected int64, got bool True"),
        ({"n": {"a": 1}}, "input 'n', row 0: expected float32, got dict {'a': 1}"),
    ],
)
def test_a_wrong_value_names_input_row_and_type(changes, message):
    with pytest.raises(InvalidInput) as caught:
        ALL.encode_columns(row(**changes))
    assert str(caught.value) == message


def test_the_row_that_is_wrong_is_the_one_named():
    with pytest.raises(InvalidInput, match="row 2"):
        Encoder(columns=(WORD,), target="y", task="binary").encode_columns({"w": ["a", None, 5]})


def test_a_long_value_does_not_flood_the_message():
    with pytest.raises(InvalidInput) as caught:
        ALL.encode_columns(row(n="x" * 100_000))
    assert len(str(caught.value)) < 200


def test_missing_and_unknown_inputs_are_named():
    columns = row()
    columns["wrd"] = columns.pop("w")
    with pytest.raises(InvalidInput, match=r"missing inputs: w; unknown inputs: wrd"):
        ALL.encode_columns(columns)


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(InvalidInput, match=r"same number of rows, got \{'n': 2"):
        ALL.encode_columns(row() | {"n": [1.0, 2.0]})


def test_no_rows_are_rows_too():
    features = ALL.encode_columns({name: [] for name in ALL.names})
    assert (features.numeric_NF.shape, features.codes_NC.shape) == ((0, 3), (0, 2))


def test_a_null_against_the_policy_is_refused_in_tables_too():
    table = pa.table({"i": pa.array([1, None], pa.int16())})
    with pytest.raises(DataError, match="column 'i' holds 1 nulls and its policy is error"):
        Encoder(columns=(WHOLE,), target="y", task="binary").encode_table(table)


def test_encoding_into_views_touches_nothing_else():
    encoder = Encoder(columns=(NUMBER, WORD), target="y", task="binary")
    features = encoder.empty(4)
    features.numeric_NF.fill(-1)
    features.codes_NC.fill(-1)
    encoder.encode_into(pa.table({"n": [1.0, 2.0], "w": ["a", "b"]}), features.take(slice(1, 3)))
    assert features.numeric_NF[:, 0].tolist() == [-1, 1, 2, -1]
    assert features.codes_NC[:, 0].tolist() == [-1, 1, 2, -1]


def test_features_are_concatenated_and_picked_in_order():
    one, two = ALL.encode_columns(row(n=1.0)), ALL.encode_columns(row(n=2.0))
    both = Features.concatenate([one, two])
    assert both.numeric_NF[:, 0].tolist() == [1.0, 2.0]
    assert both.take(np.array([1, 0, 1])).numeric_NF[:, 0].tolist() == [2.0, 1.0, 2.0]
    assert Features.concatenate([one]) is one


def encoder_for(task, classes=()):
    return Encoder(columns=(NUMBER,), target="y", task=task, classes=classes)


def test_labels_of_each_task():
    binary = encoder_for("binary").encode_labels(pa.array([True, False]))
    assert (binary.tolist(), binary.dtype) == ([1.0, 0.0], np.float32)
    regression = encoder_for("regression").encode_labels(pa.array([1, 2]))
    assert (regression.tolist(), regression.dtype) == ([1.0, 2.0], np.float32)
    multiclass = encoder_for("multiclass", ("a", "b")).encode_labels(pa.array(["b", "a"]).dictionary_encode())
    assert (multiclass.tolist(), multiclass.dtype) == ([1, 0], np.int64)


def test_labels_that_cannot_be_are_refused():
    with pytest.raises(DataError, match="target 'y' has 1 nulls"):
        encoder_for("binary").encode_labels(pa.array([True, None]))
    with pytest.raises(DataError, match=r"classes that training never saw: \['z'\]"):
        encoder_for("multiclass", ("a", "b")).encode_labels(pa.array(["a", "z"]))


def test_signatures_name_raw_columns_and_the_task_s_output():
    signature = ALL.signature()
    assert [(i.name, i.dtype, i.nullable, i.categories) for i in signature.inputs] == [
        ("n", "float32", True, None), ("w", "string", True, 2), ("i", "int16", False, None),
        ("k", "int64", False, 2), ("f", "bool", True, None),
    ]  # fmt: skip
    assert [(o.name, o.shape) for o in signature.outputs] == [("probability", (-1,))]
    multiclass = encoder_for("multiclass", ("a", "b", "c")).signature().outputs[0]
    assert (multiclass.name, multiclass.shape) == ("probabilities", (-1, 3))
    assert encoder_for("regression").signature().outputs[0].name == "prediction"


@pytest.mark.parametrize(
    ("arrow_type", "dtype"),
    [
        (pa.bool_(), "bool"), (pa.int8(), "int8"), (pa.uint64(), "uint64"), (pa.float16(), "float16"),
        (pa.float64(), "float64"), (pa.string(), "string"), (pa.large_string(), "string"),
        (pa.decimal128(8, 2), "float64"), (pa.dictionary(pa.int8(), pa.string()), "string"),
    ],
)  # fmt: skip
def test_arrow_types_as_inputs(arrow_type, dtype):
    assert input_dtype(arrow_type, "x") == dtype


@pytest.mark.parametrize("arrow_type", [pa.time64("us"), pa.binary(), pa.struct([("a", pa.int8())])])
def test_types_that_are_no_input_say_the_way_out(arrow_type):
    with pytest.raises(DataError, match=r"column 'x' has type .*derive a number"):
        input_dtype(arrow_type, "x")


@pytest.mark.parametrize(
    ("column", "dtype", "message"),
    [
        (Column(kind="numeric"), "string", "declared numeric but holds text"),
        (Column(kind="categorical"), "float32", "declared categorical but holds float32"),
        (Column(kind="categorical"), "bool", "declared categorical but holds bool"),
        (Column(nulls="unknown"), "int8", "is numeric, where `nulls` is one of error, mean, a number"),
        (Column(nulls="mean"), "string", "is categorical, where `nulls` is one of error, unknown"),
        (Column(nulls=0.0), "string", "got 0.0"),
    ],
)
def test_declarations_that_do_not_fit_are_refused(column, dtype, message):
    with pytest.raises(DataError, match=message):
        resolve_kind(column, dtype, "x")


def test_kinds_follow_the_dtype():
    assert resolve_kind(Column(), "string", "x") == "categorical"
    assert resolve_kind(Column(), "int8", "x") == "numeric"
    assert resolve_kind(Column(kind="categorical"), "int8", "x") == "categorical"


SCHEMA = pa.schema({"distance": pa.int32(), "late": pa.bool_()})


def test_a_schema_that_fits_is_accepted():
    check_schema(SCHEMA, {"distance": Column()}, "late", "train data x")


@pytest.mark.parametrize(
    ("features", "target", "message"),
    [
        (
            {"distanse": Column()},
            "late",
            r"train data x has no column 'distanse'; have: .*Did you mean 'distance'",
        ),
        ({"distance": Column()}, "lat", r"has no column 'lat'.*Did you mean 'late'"),
        ({"distance": Column(), "late": Column()}, "late", "target 'late' is also listed under features"),
        ({"distance": Column(nulls="unknown")}, "late", "column 'distance' is numeric"),
    ],
)
def test_a_schema_that_does_not_fit_is_refused(features, target, message):
    with pytest.raises(DataError, match=message):
        check_schema(SCHEMA, features, target, "train data x")


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int16", 70_000), ("int16", -40_000), ("uint8", -1), ("int64", 10**400), ("float32", 10**400),
        ("float64", 1e300), ("float64", float("nan")), ("float32", float("inf")), ("float16", 70_000.0),
    ],
)  # fmt: skip
def test_numbers_beyond_their_type_are_refused(dtype, value):
    column = FittedColumn(name="x", kind="numeric", dtype=dtype, nulls="error", null_count=0)
    encoder = Encoder(columns=(column,), target="y", task="regression")
    limit = dtype.replace("float64", "float32, as which a float64")
    with pytest.raises(InvalidInput, match=f"input 'x', row 1: .* is outside the range of {limit}"):
        encoder.encode_columns({"x": [1, value]})


def test_arrays_are_checked_as_lists_are():
    column = FittedColumn(name="x", kind="numeric", dtype="int16", nulls="error", null_count=0)
    encoder = Encoder(columns=(column,), target="y", task="regression")
    assert encoder.encode_columns({"x": np.array([1, 2])}).numeric_NF[:, 0].tolist() == [1.0, 2.0]
    for wrong in (np.array([1.5]), np.array([70_000]), np.array([True])):
        with pytest.raises(InvalidInput, match="input 'x', row 0"):
            encoder.encode_columns({"x": wrong})
