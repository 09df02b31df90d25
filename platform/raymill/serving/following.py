"""Which versions of a model are served: those that its labels and forms of latest point at, and that load."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice

from raymill.errors import NotFound, RaymillError
from raymill.repo import Repository
from raymill.serving.served import is_label

Wanted = str | int
Found = Mapping[Wanted, tuple[int, ...]]
"""By label, number or form of latest: the versions that are served of it, the newest first."""

EARLIER = 3
"""Versions of before that are tried in the place of one that does not load: each is fetched and proven."""


def follow(
    repository: Repository,
    model: str,
    serve: Iterable[Wanted],
    before: Found,
    load: Callable[[int], object],
) -> tuple[Found, dict[Wanted, Exception]]:
    """Return the versions to serve, and what is wrong where they are not those that are wanted.

    In the place of what does not load, what was served before stays; where nothing was, as in a replica
    that starts, there comes what the label pointed at earlier, which replicas that run have kept.
    What is there no more is left out, unless nothing is there: then it is rather the storage that is away.

    Args:
        before: What is served now.
        load: Makes a version ready to answer, or raises; is also called for those that are ready.
    """
    found: dict[Wanted, tuple[int, ...]] = {}
    failed: dict[Wanted, Exception] = {}
    for wanted in serve:
        try:
            numbers = repository.resolve_all(model, wanted)
        except NotFound as error:
            failed[wanted] = error
            continue
        except Exception as error:  # storage raises what it likes
            failed[wanted], found[wanted] = error, before.get(wanted, ())
            continue
        instead = before.get(wanted) or _earlier(repository, model, wanted, numbers)
        loaded: list[int] = []
        for number in chain(numbers, instead):
            if len(loaded) == len(numbers):
                break
            try:
                load(number)
            except Exception as error:  # so do frameworks
                failed.setdefault(wanted, error)
            else:
                loaded += [number] if number not in loaded else []
        found[wanted] = tuple(loaded)
    found = {wanted: numbers for wanted, numbers in found.items() if numbers}
    return found or before, failed


def _earlier(repository: Repository, model: str, wanted: Wanted, numbers: list[int]) -> Iterator[int]:
    """Yield the versions that were served of `wanted` before `numbers`, the last ones first."""
    try:
        if is_label(wanted):
            versions = [event.version for event in reversed(repository.history(model, str(wanted)))]
        else:
            versions = repository.resolve_all(model, "latest:all") if str(wanted).startswith("latest") else []
    except RaymillError:  # an earlier move that cannot be read
        return
    yield from islice((number for number in dict.fromkeys(versions) if number not in numbers), EARLIER)
