"""Which exported programs (.pt2 archives) may be loaded: those of which nothing is unpickled or run as text.

`torch.export.load` trusts its file. It evaluates shape expressions as Python, unpickles payloads that a
flag or only a file's name says are pickled, looks up whatever `torch.x.y.z` a node names, imports what a
structure names, and writes names and guards into source that it compiles. Some of that its own checks
stop in some versions. So this is a list of what is allowed, and all else is refused: the files of the
archive by name, and each text in its JSON by a pattern. A text that no rule names must be a plain
identifier, with dots. See docs/decisions/0003-model-format.md.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raymill.errors import Corrupt

_FILES = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|models/model\.json"
    r"|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt"
)
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.]*")
_SIZE = r"L\['\w+'\]\.size\(\)\[\d+\]"
_TEXTS = {
    "expr_str": re.compile(  # what the exporter writes for shapes: names, whole numbers, arithmetic
        r"(?:Symbol\('[su]\d+'|Integer\(|(?:positive|nonnegative|integer)=True|\d|Add|Mul|Max|Min|Mod|FloorDiv"
        r"|[-+(), ]|\*(?!\*))*"
    ),
    "guards_code": re.compile(rf"{_SIZE} (?:==|!=|<=|>=|<|>) (?:\d+|{_SIZE})"),
    "target": re.compile(r"torch\.ops\.aten\.(?!from_file)\w+\.\w+"),
    "path_name": re.compile(r"(?:weight|tensor)_\d+"),
    "torch_version": re.compile(r"[\w.+-]*"),
    "stack_trace": re.compile(r".*", re.DOTALL),  # for people; nothing reads these three but to show them
    "nn_module_stack": re.compile(r".*", re.DOTALL),
    "torch_fn": re.compile(r".*", re.DOTALL),
}
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")
_CONTEXT = re.compile(r'[\w\[\]", ]*')
_WAY_OUT = "refused: stored files are never unpickled or evaluated. Publish the model again with Raymill"


def refuse_unsafe(path: Path) -> None:
    """Refuse an archive that would have loading or running it unpickle or evaluate anything.

    Raises:
        Corrupt: not an archive, or one that holds more than a graph of tensor operations and weights.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            _check_names(path, names)
            for name in names:
                if name.endswith(".json"):
                    _check_document(json.loads(archive.read(name)), f"{path}:{name}")
                elif name.endswith("/sample_inputs/model.pt") and archive.read(name):
                    raise Corrupt(f"{path}: {name} is pickled; {_WAY_OUT}")
    except (zipfile.BadZipFile, ValueError, RecursionError, OSError) as error:
        raise Corrupt(f"{path} is not an exported program: {error}") from error


def _check_names(path: Path, names: list[str]) -> None:
    tops = {name.partition("/")[0] for name in names}
    if len(tops) != 1 or len(set(names)) != len(names):
        raise Corrupt(f"{path} is not an exported program: files {sorted(names)[:5]} are doubled or stray")
    for name in names:
        if not _FILES.fullmatch(name.partition("/")[2]):
            raise Corrupt(f"{path}: {name} has no place in an exported program; {_WAY_OUT}")


def _check_document(document: Any, where: str) -> None:
    for key, value in _leaves(document):
        if key == "use_pickle" and value:
            raise Corrupt(f"{where}: a pickled payload; {_WAY_OUT}")
        if not isinstance(value, str):
            continue
        if key in ("in_spec", "out_spec"):
            _check_structure(value, f"{where}: {key}")
        elif not _TEXTS.get(key, _IDENTIFIER).fullmatch(value):
            raise Corrupt(f"{where}: {key} {value!r:.80} is more than tensor arithmetic needs; {_WAY_OUT}")


def _check_structure(text: str, where: str) -> None:
    """Allow tuples, lists and dicts with plain keys; other containers import and call what they name."""
    for key, value in _leaves(json.loads(text)):
        plain = value in _CONTAINERS if key == "type" else _CONTEXT.fullmatch(str(value))
        if not plain:
            raise Corrupt(f"{where} names {value!r:.80}, which is no plain container; {_WAY_OUT}")


def _leaves(document: Any) -> Iterator[tuple[str, Any]]:
    """Yield each leaf below `document` with the nearest key above it, and each key as a leaf of its own."""
    stack: list[tuple[str, Any]] = [("", document)]
    while stack:
        key, node = stack.pop()
        if isinstance(node, dict):
            for name, value in node.items():
                yield "", name
                stack.append((name, value))
        elif isinstance(node, list):
            stack += [(key, value) for value in node]
        else:
            yield key, node
