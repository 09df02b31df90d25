"""Packed numbers: what protobuf itself writes is read, and what is written protobuf reads."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import message_factory
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from raymill.errors import InvalidInput
from raymill.serving import packed, public
from raymill.serving.proto import oip_messages_pb2 as pb

PUBLIC = message_factory.GetMessageClass(public.pool().FindMessageTypeByName("inference.InferTensorContents"))
FIELDS = {
    "bool": "bool_contents", "int32": "int_contents", "int64": "int64_contents", "uint32": "uint_contents",
    "uint64": "uint64_contents", "float32": "fp32_contents", "float64": "fp64_contents",
}  # fmt: skip
INT = {
    "int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1), "uint64": (0, 2**64 - 1),
}  # fmt: skip
VALUES = {name: st.integers(*ends) for name, ends in INT.items()} | {
    "bool": st.booleans(), "float32": st.floats(width=32), "float64": st.floats(),
}  # fmt: skip


@pytest.mark.parametrize("dtype", FIELDS)
@given(data=st.data())
def test_what_protobuf_writes_and_reads(dtype: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(VALUES[dtype], min_size=1, max_size=40))
    plain = PUBLIC(**{FIELDS[dtype]: values})
    message = pb.InferTensorContents.FromString(plain.SerializeToString())
    chunks = getattr(message, FIELDS[dtype])
    expected = np.array(values, dtype)
    np.testing.assert_array_equal(packed.numbers(chunks, dtype).astype(dtype), expected)
    written = pb.InferTensorContents(**{FIELDS[dtype]: [packed.pack(expected)]})
    read = PUBLIC.FromString(written.SerializeToString())
    np.testing.assert_array_equal(np.array(getattr(read, FIELDS[dtype]), dtype), expected)


@pytest.mark.parametrize("dtype", ["bool", "int32", "int64", "uint32", "uint64"])
@given(values=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20))
def test_a_varint_that_is_too_long_for_its_field_is_read_as_protobuf_reads_it(
    dtype: str, values: list[int]
) -> None:
    """Of 32-bit fields the low bits count: some writers send -1 in five bytes, others in ten."""
    data = packed.pack(np.array(values, np.uint64).view(np.int64))
    message = pb.InferTensorContents(**{FIELDS[dtype]: [data]})
    expected = list(getattr(PUBLIC.FromString(message.SerializeToString()), FIELDS[dtype]))
    assert packed.numbers([data], dtype).astype(dtype).tolist() == expected


def test_chunks_are_one_list() -> None:
    parts = [packed.pack(np.array([1, 300], np.int64)), packed.pack(np.array([-1], np.int64))]
    assert packed.numbers(parts, "int64").tolist() == [1, 300, -1]


@pytest.mark.parametrize(
    ("data", "dtype"), [(b"abc", "float32"), (b"\x80", "int64"), (b"\xff" * 11 + b"\1", "int64")]
)
def test_broken_bytes_are_refused(data: bytes, dtype: str) -> None:
    with pytest.raises(InvalidInput, match="packed list"):
        packed.numbers([data], dtype)


def test_text_that_is_no_text_is_named() -> None:
    with pytest.raises(InvalidInput, match="input 'w', row 1"):
        packed.texts([b"a", b"\xff"], "w")


def test_protobuf_itself_refuses_half_a_message() -> None:
    with pytest.raises(DecodeError):
        pb.InferTensorContents.FromString(b"\x32\x05ab")
