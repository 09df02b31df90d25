"""Make the Python code of the .proto files; a test holds it current.

python scripts/protos.py [FOLDER]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parents[1] / "platform" / "raymill" / "serving" / "proto"


def generate(folder: Path) -> None:
    """Write `*_pb2.py` of every .proto file into `folder`."""
    well_known = Path(protoc.__file__).parent / "_proto"
    files = sorted(str(file.name) for file in PROTOS.glob("*.proto"))
    status = protoc.main(["protoc", f"-I{PROTOS}", f"-I{well_known}", f"--python_out={folder}", *files])
    if status:
        raise SystemExit(f"protoc ended with {status}")
    for file in folder.glob("*_pb2.py"):  # protoc imports its neighbours as if they lay on the path
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub(r"^import (\w+_pb2) as", r"from . import \1 as", text, flags=re.M))


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else PROTOS)
