"""Boosters of an unfinished run, for the job that takes it up: `<runs>/<run>/boosting/<rounds>`.

Each is one file, replaced in one step and so whole or absent in every storage: a line of JSON with what
was measured until then, and the model as universal binary JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from raymill.errors import Corrupt
from raymill.flavors.ubjson import check_whole
from raymill.storage import Location

FOLDER, DIGITS = "boosting", 8
Entry = dict[str, float]


@dataclass(frozen=True)
class Stored:
    """A run's state after some rounds."""

    model: bytes
    history: list[Entry]
    """What was measured after these rounds and before."""

    def booster(self) -> Any:
        """Return the `xgboost.Booster`."""
        import xgboost

        return xgboost.Booster(model_file=bytearray(self.model))


def newest(run: Location, *, most: int | None = None) -> Stored | None:
    """Return the state of a run after most rounds, at most `most`; None where there is none.

    Raises:
        Corrupt: a damaged file; it is named.
    """
    files = [file for file in _files(run / FOLDER) if most is None or int(file.name) <= most]
    if not files:
        return None
    head, _, model = files[-1].read_bytes().partition(b"\n")
    try:
        check_whole(model)
        return Stored(model, json.loads(head)["history"])
    except (ValueError, KeyError, Corrupt) as error:
        raise Corrupt(
            f"{files[-1]} is damaged: {error}; remove it, and the run goes on from an older one"
        ) from error


class Keeper:
    """Stores a run's boosters from a thread of its own, and keeps the newest few."""

    def __init__(self, run: Location, keep: int) -> None:
        self._folder, self._keep = run / FOLDER, keep
        self._folder.make_directory()
        for file in self._folder.children():
            if not file.name.isdigit():  # what a killed process left unfinished
                file.remove()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="boosters")
        self._last: Future[None] | None = None

    def take(self, model: Any, history: Sequence[Entry]) -> None:
        """Have `model` stored as it is now; waits for the one before, for each is a copy."""
        self._wait()
        data = json.dumps({"history": history}).encode() + b"\n" + bytes(model.save_raw("ubj"))
        self._last = self._thread.submit(self._store, model.num_boosted_rounds(), data)

    def close(self) -> None:
        """Wait until all is stored."""
        self._wait()
        self._thread.shutdown()

    def _wait(self) -> None:
        if self._last:
            self._last.result()

    def _store(self, rounds: int, data: bytes) -> None:
        (self._folder / f"{rounds:0{DIGITS}}").replace_bytes(data)
        for file in _files(self._folder)[: -self._keep]:
            file.remove()


def _files(folder: Location) -> list[Location]:
    """Return the stored boosters, oldest first; not what a killed process left unfinished."""
    return [file for file in folder.children() if file.name.isdigit()]
