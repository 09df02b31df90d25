"""What is made of the .proto files is current, and what is parsed has the public messages' fields."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from raymill.serving import GRPC_PROTOCOLS, public, rpc

ROOT = Path(__file__).resolve().parents[2]


def test_generated_code_is_current(tmp_path: Path) -> None:
    found = importlib.util.spec_from_file_location("protos", ROOT / "scripts" / "protos.py")
    assert found is not None
    assert found.loader is not None
    protos = importlib.util.module_from_spec(found)
    found.loader.exec_module(protos)
    protos.generate(tmp_path)
    kept = {file.name: file.read_text() for file in protos.PROTOS.glob("*_pb2.py")}
    assert kept == {file.name: file.read_text() for file in tmp_path.glob("*_pb2.py")}, (
        "run scripts/protos.py"
    )
    assert len(kept) == 5
    assert public.DESCRIPTORS.read_bytes() == (tmp_path / "public.binpb").read_bytes(), (
        "run scripts/protos.py"
    )


METHODS = [method for name in GRPC_PROTOCOLS for method in rpc.methods(GRPC_PROTOCOLS.load(name))]


def same(ours: Any, theirs: Any, seen: set[str]) -> None:
    """Check that messages have the same fields on the wire; lists of numbers are bytes in ours."""
    if ours.full_name in seen:
        return
    seen.add(ours.full_name)
    assert ours.fields_by_number.keys() == theirs.fields_by_number.keys(), theirs.full_name
    for number, field in ours.fields_by_number.items():
        other = theirs.fields_by_number[number]
        assert field.is_repeated == other.is_repeated, other.full_name
        if field.type == field.TYPE_BYTES and other.type != field.TYPE_BYTES:
            assert field.is_repeated, other.full_name
            assert other.is_packed, other.full_name
        elif field.type == field.TYPE_MESSAGE:
            same(field.message_type, other.message_type, seen)
        elif field.type == field.TYPE_INT32 and other.type == field.TYPE_ENUM:
            pass  # the same varint
        else:
            assert field.type == other.type, other.full_name


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_what_is_parsed_has_the_public_messages_fields(method: Any) -> None:
    service = public.pool().FindServiceByName(method.containing_service.full_name)
    assert {found.name for found in service.methods} >= {method.name}
    theirs = service.FindMethodByName(method.name)
    same(method.input_type, theirs.input_type, set())
    same(method.output_type, theirs.output_type, set())
