"""The code made of the .proto files is what the compiler makes of them now."""

from __future__ import annotations

import importlib.util
from pathlib import Path

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
    assert len(kept) == 4
