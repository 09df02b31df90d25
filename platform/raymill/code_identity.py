"""Which code is running: a hash over the package's sources, and the git commit that holds exactly it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent
COMMIT_VARIABLE = "RAYMILL_COMMIT"


def source_hash(package: Path = PACKAGE) -> str:
    """Return 16 hex digits over the path and content of every source file of the package."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package).as_posix()}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def commit() -> str | None:
    """Return the git commit of this code, or None where it cannot be known.

    A submitted job runs from a copy without `.git`. There the commit is $RAYMILL_COMMIT, or that of
    the checkout the installed package points at, if its sources are the same and not modified.
    """
    if given := os.environ.get(COMMIT_VARIABLE):
        return given
    for package in (PACKAGE, _installed_package()):
        if package and source_hash(package) == source_hash():
            found = _clean_commit(package)
            if found:
                return found
    return None


def package_versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of Python, Raymill and the given distributions."""
    found = {name: importlib.metadata.version(name) for name in ("numpy", "pyarrow", "ray", *packages)}
    return {"python": ".".join(map(str, sys.version_info[:3]))} | found


def _installed_package() -> Path | None:
    """Return the package folder of an editable install, found without importing it."""
    try:
        distribution = importlib.metadata.distribution("raymill")
    except importlib.metadata.PackageNotFoundError:
        return None
    origin = getattr(distribution, "origin", None)
    url = str(getattr(origin, "url", ""))
    folder = Path(url.removeprefix("file://")) / "platform" / "raymill"
    return folder if url.startswith("file://") and folder.is_dir() else None


def _clean_commit(package: Path) -> str | None:
    try:
        status = _git(package, "status", "--porcelain", "--", ".")
        return None if status else _git(package, "rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None  # no git, or no checkout: the commit is unknown, the hash above still identifies the code


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
