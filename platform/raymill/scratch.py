"""Temporary folders that do not outlive a killed process for long.

A process that is killed removes nothing. So every folder holds a locked file while its process lives,
and the next process that needs a folder removes those whose lock nobody holds.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX, LOCK, FILES = "raymill-scratch-", "lock", "files"


@contextmanager
def scratch(what: str) -> Iterator[Path]:
    """Yield an empty folder, removed with all it holds at the end of the block; `what` goes into its name."""
    _sweep_once()
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{what}-") as made:
        home = Path(made)
        lock = os.open(home / f".{LOCK}", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (home / f".{LOCK}").rename(home / LOCK)  # seen by others only once it is held
            files = home / FILES
            files.mkdir()
            yield files
        finally:
            os.close(lock)


def sweep() -> list[Path]:
    """Remove the folders of processes that are gone, and return them."""
    gone = []
    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError):  # another's, or removed meanwhile
            handle = os.open(lock, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent)
                gone.append(lock.parent)
            finally:
                os.close(handle)
    return gone


@functools.cache
def _sweep_once() -> None:
    sweep()
