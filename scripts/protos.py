"""Make the Python code of the .proto files, and descriptors of the public ones; a test holds them current.

python scripts/protos.py [FOLDER]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parents[1] / "platform" / "raymill" / "serving" / "proto"


def generate(folder: Path) -> None:
    """Write `*_pb2.py` of every .proto file into `folder`, and `public.binpb` of those of `public/`."""
    compile_all(PROTOS, f"--python_out={folder}")
    compile_all(PROTOS / "public", "--include_imports", f"--descriptor_set_out={folder / 'public.binpb'}")
    for file in folder.glob("*_pb2.py"):  # protoc imports its neighbours as if they lay on the path
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub(r"^import (\w+_pb2) as", r"from . import \1 as", text, flags=re.M))


def compile_all(source: Path, *options: str) -> None:
    well_known = Path(protoc.__file__).parent / "_proto"
    files = sorted(file.name for file in source.glob("*.proto"))
    status = protoc.main(["protoc", f"-I{source}", f"-I{well_known}", *options, *files])
    if status:
        raise SystemExit(f"protoc ended with {status}")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else PROTOS)
