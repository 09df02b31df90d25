"""Publish, resolve, label, history, on a local path or any pyarrow or fsspec file system.

Layout, the one that TF Serving and Triton read:

    <root>/<model>/<number>/                    a version: model files, encoder, golden rows, manifest
    <root>/<model>/_labels/<label>/<number>     one file a move of a label; the highest number holds

A version exists when its manifest does. Where directories rename atomically (local disks, HDFS) the
version is written aside and renamed into place, and a number that another publisher took meanwhile
is passed over. On object stores, which cannot rename, the files are put first and the manifest last;
there one publisher a model at a time is assumed.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from raymill.errors import Conflict, Corrupt, InvalidInput, NotFound, nearest
from raymill.repo.manifest import MANIFEST_FILE, FileEntry, Manifest
from raymill.storage import Location, copy_tree, locate

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_LATEST = re.compile(r"latest:(?P<count>all|[1-9][0-9]{0,8})\Z")
_RENAME_TRIES = 100


@dataclass(frozen=True)
class Version:
    """A published version: where it is and what it says of itself."""

    number: int
    location: Location
    manifest: Manifest


@dataclass(frozen=True)
class LabelEvent:
    """One move of a label."""

    label: str
    version: int
    at: str
    by: str


class Repository:
    """Models below one root."""

    def __init__(self, root: str | Location) -> None:
        self.root = root if isinstance(root, Location) else locate(root)

    def models(self) -> list[str]:
        """Return the names of all models that have a version, sorted."""
        return [
            child.name for child in self.root.children() if child.is_directory() and self.versions(child.name)
        ]

    def versions(self, model: str) -> list[int]:
        """Return the numbers of all whole versions, ascending; [] for an unknown model."""
        if not _NAME.match(model):
            return []
        children = (self.root / model).children()
        return sorted(
            int(child.name)
            for child in children
            if _is_number(child.name) and (child / MANIFEST_FILE).exists()
        )

    def version(self, model: str, number: int) -> Version:
        """Return one version.

        Raises:
            NotFound: unknown model or version; the message lists what there is.
            Corrupt: its manifest cannot be read.
        """
        location = self.root / model / str(number)
        if number not in self.versions(model):
            raise NotFound(self._absent(model, f"version {number}"))
        document = (location / MANIFEST_FILE).read_bytes()
        try:
            manifest = Manifest.model_validate_json(document)
        except ValueError as error:
            raise Corrupt(f"manifest of {location.uri!r} cannot be read: {error}") from error
        return Version(number, location, manifest)

    def resolve(self, model: str, wanted: str | int = "latest") -> int:
        """Return the version number behind "latest", a label, or a number.

        Raises:
            NotFound: unknown model, version or label.
            Corrupt: where the label points cannot be read.
        """
        if isinstance(wanted, int) or _is_number(wanted):
            if int(wanted) not in self.versions(model):
                raise NotFound(self._absent(model, f"version {wanted}"))
            return int(wanted)
        if wanted == "latest":
            versions = self.versions(model)
            if not versions:
                raise NotFound(self._absent(model, "any version"))
            return versions[-1]
        version = self._points_at(model, wanted)  # other labels need not be readable
        if version is None:
            raise NotFound(self._absent(model, f"label {wanted!r}"))
        return version

    def resolve_all(self, model: str, wanted: str | int) -> list[int]:
        """Return the number that `resolve` does, or those of "latest:N" or "latest:all", the last one first.

        Raises as `resolve` does.
        """
        match = _LATEST.match(str(wanted))
        if match is None:
            return [self.resolve(model, wanted)]
        newest = self.resolve(model)
        numbers = [newest, *reversed([number for number in self.versions(model) if number < newest])]
        return numbers if match["count"] == "all" else numbers[: int(match["count"])]

    def publish(self, model: str, staged: Path, manifest: Manifest, check: Callable[[Path], None]) -> Version:
        """Make the files of a local directory the next version of `model`.

        Args:
            staged: Local directory with every file but the manifest, which is added here, hashes filled.
            check: Called with `staged` before anything is visible; raises to refuse the version. What
                is then written is read back and must be the same bytes.

        Raises:
            InvalidInput: a model name that no path or URL should hold.
            Corrupt: what was written reads back otherwise.
        """
        if not _NAME.match(model):
            raise InvalidInput(
                f"model name {model!r} must be letters, digits, '.', '_' or '-', at most 128, "
                "starting with a letter or digit"
            )
        manifest = manifest.model_copy(update={"files": _entries(staged)})
        check(staged)
        (staged / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        source = locate(staged)
        home = self.root / model
        home.make_directory()
        if home.renames_are_atomic():
            number = self._rename_in(source, home, manifest.files)
        else:
            number = self._put_in(source, home, manifest.files)
        return self.version(model, number)

    def label(self, model: str, label: str, wanted: str | int) -> LabelEvent:
        """Point `label` at a version; the history keeps every move.

        Raises:
            NotFound: the version does not exist.
            InvalidInput: a label that could be taken for a number, or for "latest".
        """
        if not _NAME.match(label) or _is_number(label) or label == "latest":
            raise InvalidInput(
                f"label {label!r} must be letters, digits, '.', '_' or '-', not a number and not 'latest'"
            )
        event = LabelEvent(label, self.resolve(model, wanted), _now(), os.environ.get("USER", "unknown"))
        folder = self.root / model / "_labels" / label
        folder.make_directory()
        document = {"version": event.version, "at": event.at, "by": event.by}
        while True:  # until the next number is ours: another process may move the label too
            taken = [int(child.name) for child in folder.children() if _is_number(child.name)]
            if (folder / f"{max(taken, default=0) + 1:08d}").create_bytes(json.dumps(document).encode()):
                return event

    def labels(self, model: str) -> dict[str, int]:
        """Return every label with the version it points at now. Raises Corrupt as `resolve` does."""
        names = [child.name for child in (self.root / model / "_labels").children()]
        found = {label: self._points_at(model, label) for label in names}
        return {label: version for label, version in found.items() if version is not None}

    def history(self, model: str, label: str) -> list[LabelEvent]:
        """Return every move of a label, oldest first.

        Raises:
            NotFound: an unknown label.
            Corrupt: a move that cannot be read.
        """
        moves = self._moves(model, label)
        if not moves:
            raise NotFound(f"model {model!r} has no label {label!r}")
        return [_event(label, move) for move in moves]

    def _points_at(self, model: str, label: str) -> int | None:
        moves = self._moves(model, label)
        return _event(label, moves[-1]).version if moves else None

    def _moves(self, model: str, label: str) -> list[Location]:
        """Return a file a move of a label; [] for one that a dying process began and never wrote."""
        if not (_NAME.match(model) and _NAME.match(label)):
            return []
        return [move for move in (self.root / model / "_labels" / label).children() if _is_number(move.name)]

    def rollback(self, model: str, label: str) -> LabelEvent:
        """Point `label` back at the version it had before its present one.

        Raises:
            Conflict: it never pointed anywhere else.
        """
        events = self.history(model, label)
        before = [event.version for event in events if event.version != events[-1].version]
        if not before:
            raise Conflict(
                f"label {label!r} of {model!r} has only ever pointed at version {events[-1].version}"
            )
        return self.label(model, label, before[-1])

    def _rename_in(self, source: Location, home: Location, files: tuple[FileEntry, ...]) -> int:
        aside = home / f"_publishing-{uuid.uuid4().hex}"
        try:
            aside.make_directory()
            copy_tree(source, aside)
            _read_back(aside, files)
            for _ in range(_RENAME_TRIES):
                number = _next_number(home)
                target = home / str(number)
                try:
                    aside.filesystem.move(aside.path, target.path)
                except OSError:
                    if not target.exists():
                        raise
                    continue  # another publisher took this number between the listing and the rename
                return number
        finally:
            aside.remove()
        raise Conflict(f"no free version number below {home.uri!r} after {_RENAME_TRIES} tries")

    def _put_in(self, source: Location, home: Location, files: tuple[FileEntry, ...]) -> int:
        number = _next_number(home)
        target = home / str(number)
        for entry in files:
            copy = target / entry.path
            Location(copy.filesystem, copy.path.rpartition("/")[0], copy.uri).make_directory()
            copy.write_bytes((source / entry.path).read_bytes())
        _read_back(target, files)
        (target / MANIFEST_FILE).replace_bytes((source / MANIFEST_FILE).read_bytes())
        return number

    def _absent(self, model: str, what: str) -> str:
        versions = self.versions(model)
        if not versions:
            models = self.models()
            have = f"; have: {', '.join(models)}." if models else "; it is empty."
            return f"repository {self.root.uri!r} has no model {model!r}{have}{nearest(model, models)}"
        try:
            labels = ", ".join(f"{label} -> {number}" for label, number in self.labels(model).items())
        except Corrupt as error:
            labels = str(error)
        numbers = ", ".join(map(str, versions[-10:]))
        return f"model {model!r} has no {what}; versions: {numbers}; labels: {labels or 'none'}"


def _entries(staged: Path) -> tuple[FileEntry, ...]:
    source = locate(staged)
    return tuple(
        FileEntry(
            path=file.path.removeprefix(source.path).lstrip("/"), bytes=int(info.size), sha256=file.sha256()
        )
        for file, info in source.files()
    )


def _event(label: str, move: Location) -> LabelEvent:
    data = move.read_bytes()
    try:
        event = LabelEvent(label=label, **json.loads(data))
        if type(event.version) is not int:
            raise ValueError(f"version {event.version!r} is no number")
    except (ValueError, TypeError) as error:  # TypeError: JSON, and not of a move
        raise Corrupt(
            f"{move.uri!r}, a move of label {label!r}, cannot be read: {error}; "
            "delete the file, and the label points where it did before"
        ) from error
    return event


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _read_back(folder: Location, files: tuple[FileEntry, ...]) -> None:
    for entry in files:
        copy = folder / entry.path
        if not copy.exists() or copy.sha256() != entry.sha256:
            raise Corrupt(f"{copy.uri!r} reads back otherwise than it was written; publish again")


def _next_number(home: Location) -> int:
    """One above every number ever used here, half-written ones of a crashed publisher included."""
    return max((int(child.name) for child in home.children() if _is_number(child.name)), default=0) + 1


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
