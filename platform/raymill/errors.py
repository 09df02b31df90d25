"""Typed, protocol-free errors. Each message names the rule, the value and the way out.

`kind` is what wire protocols and exit codes are derived from; no error knows HTTP or gRPC.
Every argument goes to `super().__init__`, so that errors survive pickling between processes.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import ClassVar, Literal

Kind = Literal[
    "invalid", "not_found", "conflict", "unavailable", "exhausted", "unsupported", "deadline", "internal"
]


class RaymillError(Exception):
    """Base of every error that Raymill raises on purpose; `str(error)` is the whole message."""

    kind: ClassVar[Kind] = "internal"


class InvalidInput(RaymillError):
    """The caller's input breaks a rule: a request body, an argument, a data value."""

    kind = "invalid"


class SpecError(InvalidInput):
    """A spec file cannot work: unknown key, wrong type, a value outside its range."""


class DataError(InvalidInput):
    """A dataset cannot be used as the spec asks: missing column, wrong dtype, no rows, a broken file."""


class NotFound(RaymillError):
    """What was asked for does not exist: a model, a version, a label, a path."""

    kind = "not_found"


class Conflict(RaymillError):
    """The action would break what exists, such as overwriting an immutable version."""

    kind = "conflict"


class Unavailable(RaymillError):
    """A resource is not there now, or cannot be had at all on this cluster."""

    kind = "unavailable"


class Unsupported(RaymillError):
    """A known construct that this kind of model, strategy or file system cannot honour."""

    kind = "unsupported"


class Exhausted(RaymillError):
    """More is asked than fits, now; `retry_after_s` says in how many seconds there may be room."""

    kind = "exhausted"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message, retry_after_s)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return str(self.args[0])


class DeadlineExceeded(RaymillError):
    """The caller's time was over before the answer was there."""

    kind = "deadline"


class Corrupt(RaymillError):
    """Stored bytes are not what was written: a hash, a size or a golden prediction differs."""


class Diverged(RaymillError):
    """Training ran away: a loss or a weight is no finite number any more. Trying again gives the same."""

    kind = "invalid"


MAX_NAME = 256
MOST_NAMED, NAME_CHARS = 10, 60


def some(names: Collection[str]) -> str:
    """Return names for a message, as many and as much of each as one reads: a client may send any number."""
    shown = ", ".join(f"{name:.{NAME_CHARS}}" for name in islice(names, MOST_NAMED))
    more = len(names) - MOST_NAMED
    return f"{shown} and {more:,} more" if more > 0 else shown


def nearest(wrong: str, right: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest of `right`, or "" when none is close."""
    if len(wrong) > MAX_NAME:  # compared letter by letter, and a client may send megabytes of them
        return ""
    close = difflib.get_close_matches(wrong, list(right), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn an ImportError inside the block into one that names the pip extra to install."""
    try:
        yield
    except ImportError as error:
        raise Unavailable(
            f"{error.name or error} is not installed; this needs the extra: pip install 'raymill[{extra}]'"
        ) from error
