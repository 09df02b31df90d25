"""Checkpoints of a run in storage: `<runs>/<run>/checkpoint_*`, each whole or absent.

Ray Train's own snapshot in the same directory names those that every rank has reported; what it does
not name was never finished, or is no longer kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from raymill.scratch import scratch
from raymill.storage import Location, copy_tree, locate

PREFIX, ASIDE = "checkpoint_", ".writing-"
SNAPSHOT = "checkpoint_manager_snapshot.json"


def store(run: Location, name: str, write: Callable[[Path], None]) -> Location:
    """Have `write` make the files of checkpoint `name` of a run, and return where they are.

    Written aside and renamed into place on local disks, so that no half of it ever has the name.
    """
    target, aside = run / name, run / f"{ASIDE}{name}"
    folder = aside.local_path
    if folder is None:
        with scratch("checkpoint") as made:
            write(Path(made))
            copy_tree(locate(made), target)
        return target
    aside.make_directory()
    write(folder)
    folder.rename(str(target.path))
    return target


def sweep(run: Location) -> list[str]:
    """Remove what killed workers of an earlier attempt left unfinished; return the names."""
    if not run.exists():
        return []
    snapshot = run / SNAPSHOT
    text = snapshot.read_bytes().decode() if snapshot.exists() else "{}"
    named = {result["checkpoint_dir_name"] for result in _results(text)}
    left = [
        child
        for child in run.children()
        if child.name.startswith(ASIDE) or (child.is_directory() and _is_unnamed(child.name, named))
    ]
    for child in left:
        child.remove()
    return [child.name for child in left]


def _is_unnamed(name: str, named: set[str]) -> bool:
    return name.startswith(PREFIX) and name not in named


def _results(text: str) -> list[dict[str, str]]:
    document = json.loads(text)
    document = json.loads(document) if isinstance(document, str) else document
    found: list[dict[str, str]] = document.get("checkpoint_results", [])
    return found
