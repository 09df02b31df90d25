"""Where bytes live: one `Location` over pyarrow's own file systems and every fsspec one.

Relative paths in specs are taken under `$RAYMILL_STORAGE`, because a submitted job runs in a
temporary copy of its working directory, where what it wrote would be lost.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
from pyarrow import fs as pafs

from raymill.errors import NotFound, SpecError, needs_extra

STORAGE_VARIABLE = "RAYMILL_STORAGE"
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Location:
    """A path on a file system. Cheap to copy, and picklable whenever its file system is."""

    filesystem: pafs.FileSystem
    path: str
    uri: str
    """What the user would type to get here again; used in messages, manifests and lineage."""

    def __truediv__(self, name: str) -> Location:
        return Location(self.filesystem, f"{self.path.rstrip('/')}/{name}", _below(self.uri, name))

    def __str__(self) -> str:
        return self.uri

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rpartition("/")[2]

    @property
    def local_path(self) -> Path | None:
        """The path on this machine's own file system; None where the location is elsewhere."""
        return Path(self.path) if type(self.filesystem) is pafs.LocalFileSystem else None

    def info(self) -> pafs.FileInfo:
        return self.filesystem.get_file_info(self.path)

    def exists(self) -> bool:
        return bool(self.info().type != pafs.FileType.NotFound)

    def is_directory(self) -> bool:
        return bool(self.info().type == pafs.FileType.Directory)

    def read_bytes(self) -> bytes:
        """Return the whole file. Raises NotFound, naming the location, where there is none."""
        try:
            with self.filesystem.open_input_stream(self.path) as stream:
                return bytes(stream.read())
        except FileNotFoundError as error:
            raise NotFound(f"no file at {self.uri!r}") from error

    def write_bytes(self, data: bytes) -> None:
        """Write the whole file, replacing what was there. Not atomic; see `replace_bytes`."""
        with self.filesystem.open_output_stream(self.path) as stream:
            stream.write(data)

    def replace_bytes(self, data: bytes) -> None:
        """Replace the file's content in one step: readers see the old bytes or the new, never a part.

        Object stores make a put visible whole; elsewhere this writes aside and renames.
        """
        if self._puts_are_atomic():
            self.write_bytes(data)
            return
        aside = Location(self.filesystem, f"{self.path}.{os.getpid()}.tmp", self.uri)
        aside.write_bytes(data)
        self.filesystem.move(aside.path, self.path)

    def create_bytes(self, data: bytes) -> bool:
        """Write a new file whole and return True, or return False where the name is taken.

        One step on local disks, for any number of writers; elsewhere the name is looked for first, so
        that one writer at a time is assumed.
        """
        if not isinstance(self.filesystem, pafs.LocalFileSystem):
            if self.exists():
                return False
            self.replace_bytes(data)
            return True
        aside = Path(f"{self.path}.{uuid.uuid4().hex}.tmp")
        aside.write_bytes(data)
        try:
            os.link(aside, self.path)
        except FileExistsError:
            return False
        finally:
            aside.unlink()
        return True

    def open_input(self) -> pa.NativeFile:
        return self.filesystem.open_input_file(self.path)

    def make_directory(self) -> None:
        self.filesystem.create_dir(self.path, recursive=True)

    def children(self, *, recursive: bool = False) -> list[Location]:
        """Return what lies in this directory, sorted by path; [] where there is no directory."""
        selector = pafs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
        found = self.filesystem.get_file_info(selector)
        return [self._child(info) for info in sorted(found, key=lambda info: str(info.path))]

    def files(self) -> list[tuple[Location, pafs.FileInfo]]:
        """Return every file below this directory with its size and mtime, sorted by path."""
        selector = pafs.FileSelector(self.path, allow_not_found=True, recursive=True)
        found = [i for i in self.filesystem.get_file_info(selector) if i.type == pafs.FileType.File]
        return [(self._child(info), info) for info in sorted(found, key=lambda info: str(info.path))]

    def remove(self) -> None:
        """Delete this file or directory tree; nothing happens where there is none."""
        kind = self.info().type
        if kind == pafs.FileType.Directory:
            self.filesystem.delete_dir(self.path)
        elif kind == pafs.FileType.File:
            self.filesystem.delete_file(self.path)

    def sha256(self) -> str:
        digest = hashlib.sha256()
        with self.filesystem.open_input_stream(self.path) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def renames_are_atomic(self) -> bool:
        """Whether moving a directory here is one step that fails if the target has content."""
        return isinstance(_bare(self.filesystem), pafs.LocalFileSystem | pafs.HadoopFileSystem)

    def check_writable(self) -> None:
        """Write and remove a small file here, creating the directory.

        Raises:
            SpecError: the location cannot be written, with the file system's own reason.
        """
        probe = self / f".raymill-write-check-{os.getpid()}"
        try:
            self.make_directory()
            probe.write_bytes(b"raymill")
            probe.remove()
        except (OSError, pa.ArrowException) as error:
            raise SpecError(
                f"{self.uri!r} cannot be written: {error}; choose a path that this user may write"
            ) from error

    def _puts_are_atomic(self) -> bool:
        return isinstance(_bare(self.filesystem), pafs.S3FileSystem | pafs.GcsFileSystem)

    def _child(self, info: pafs.FileInfo) -> Location:
        relative = str(info.path).removeprefix(self.path.rstrip("/")).lstrip("/")
        return self / relative


def locate(uri: str | os.PathLike[str]) -> Location:
    """Return the location behind a local path, a URI of pyarrow's or fsspec's, or `package://`.

    `package://name/inner/path` is a file inside an installed Python package. A relative path is
    taken under $RAYMILL_STORAGE, or under the current directory where that is not set.

    `oss://bucket/path` is Alibaba Cloud's object store, by its S3 interface: $OSS_ENDPOINT, or
    `?endpoint=` in the URI, says where, and $OSS_ACCESS_KEY_ID, $OSS_ACCESS_KEY_SECRET and
    $OSS_SESSION_TOKEN who asks, as for Alibaba's own tools. Others of S3's kind are reached by
    `s3://bucket/path?endpoint_override=host:port`.

    Raises:
        SpecError: an unknown scheme or package, or a relative path inside a submitted job on a
            cluster that names no storage.
    """
    text = os.fspath(uri)
    match = _SCHEME.match(text)
    scheme = match.group(1).lower() if match else "file"
    if scheme == "package":
        return _local(_package_path(text))
    if not match:
        root = storage_root()
        if root and _SCHEME.match(root) and not Path(text).is_absolute():
            return locate(_below(root, text))
        return _local(_absolute(text, root))
    if scheme == "file":
        return _local(Path(text.removeprefix("file://")))
    if scheme in ("s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss"):
        filesystem, path = pafs.FileSystem.from_uri(text)
        return Location(filesystem, path, text)
    if scheme == "oss":
        return _oss(text)
    return _fsspec(text, scheme)


def storage_root() -> str | None:
    """Return $RAYMILL_STORAGE, or None where it is not set."""
    return os.environ.get(STORAGE_VARIABLE) or None


def _below(uri: str, name: str) -> str:
    """Return the URI of `name` below `uri`; options after a question mark stay at the end."""
    path, mark, options = uri.partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{options}"


def _oss(text: str) -> Location:
    """OSS speaks S3 with the bucket in the host name only, which Arrow's own URIs cannot ask for."""
    parts = urlsplit(text)
    found = parse_qs(parts.query).get("endpoint") or [os.environ.get("OSS_ENDPOINT", "")]
    endpoint = found[0].removeprefix("https://")
    if not endpoint:
        raise SpecError(
            f"{text!r} names no endpoint; set OSS_ENDPOINT, such as oss-cn-hangzhou.aliyuncs.com, "
            "or append ?endpoint=... to the URI"
        )
    filesystem = pafs.S3FileSystem(
        access_key=os.environ.get("OSS_ACCESS_KEY_ID"),
        secret_key=os.environ.get("OSS_ACCESS_KEY_SECRET"),
        session_token=os.environ.get("OSS_SESSION_TOKEN"),
        scheme="http" if endpoint.startswith("http://") else "https",
        endpoint_override=endpoint.removeprefix("http://"),
        force_virtual_addressing=True,
    )
    return Location(filesystem, parts.netloc + parts.path, text)


def _absolute(text: str, root: str | None) -> Path:
    path = Path(text).expanduser()
    if path.is_absolute():
        return path
    if root is None and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        raise SpecError(
            f"relative path {text!r} in a submitted job would be lost with the job's working directory; "
            f"use an absolute path or a URI, or start the cluster with {STORAGE_VARIABLE} set"
        )
    return (Path(root).expanduser() if root else Path()).absolute() / path


def _local(path: Path) -> Location:
    return Location(pafs.LocalFileSystem(), str(path), str(path))


def _package_path(text: str) -> Path:
    package, _, inner = text.removeprefix("package://").partition("/")
    found = importlib.util.find_spec(package)  # found, not imported: some packages do much on import
    if found is None or not found.submodule_search_locations:
        raise SpecError(f"{text!r}: Python package {package!r} is not installed; pip install {package}")
    return Path(next(iter(found.submodule_search_locations))) / inner


def _fsspec(text: str, scheme: str) -> Location:
    with needs_extra("fsspec"):
        import fsspec
    try:
        filesystem, path = fsspec.core.url_to_fs(text)
    except (ValueError, ImportError) as error:
        raise SpecError(f"{text!r}: {error}") from error
    return Location(pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path, text)


def _bare(filesystem: pafs.FileSystem) -> pafs.FileSystem:
    while isinstance(filesystem, pafs.SubTreeFileSystem):
        filesystem = filesystem.base_fs
    return filesystem


def copy_tree(source: Location, target: Location) -> None:
    """Copy every file below `source` to the same relative path below `target`."""
    for file, _ in source.files():
        copy = target / file.path.removeprefix(source.path.rstrip("/")).lstrip("/")
        parent = Location(copy.filesystem, copy.path.rpartition("/")[0], copy.uri)
        parent.make_directory()
        with (
            source.filesystem.open_input_stream(file.path) as reader,
            target.filesystem.open_output_stream(copy.path) as writer,
        ):
            for chunk in _chunks(reader):
                writer.write(chunk)


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK_BYTES):
        yield chunk
