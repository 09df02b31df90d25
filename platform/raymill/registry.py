"""Names to implementations, imported on first use; the one plug-in mechanism of the project.

An area keeps one table. A new kind is one file and one line, and the conformance tests iterate
the tables, so the line enrolls it there too. "package.module:Attribute" works as a name as well,
for an implementation that lives outside Raymill.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from raymill.errors import SpecError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """A read-only table of names to "module:attribute" targets."""

    def __init__(self, what: str, targets: Mapping[str, str]) -> None:
        self.what = what
        self._targets = dict(targets)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._targets))

    def __contains__(self, name: object) -> bool:
        return name in self._targets

    def load(self, name: str) -> T:
        """Return the implementation behind `name`.

        Raises:
            SpecError: `name` is neither in the table nor an importable "module:attribute".
        """
        target = self._targets.get(name) or (name if ":" in name else None)
        if target is None:
            raise SpecError(f"{self.what} {name!r} is unknown; have: {', '.join(self)}.{nearest(name, self)}")
        return import_target(target, self.what)  # type: ignore[no-any-return]


def import_target(target: str, what: str = "object") -> Any:
    """Return the attribute named by "module:attribute".

    Raises:
        SpecError: the module does not import or lacks the attribute; the message says which.
    """
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise SpecError(f"{what} {target!r} must have the form 'module:attribute'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise  # the module exists, and something inside it is missing: show that
        raise SpecError(
            f"{what} {target!r}: no module {module_name!r} on the path; "
            "ship it in the job's working directory or install it"
        ) from error
    if not hasattr(module, attribute):
        raise SpecError(
            f"{what} {target!r}: module {module_name!r} has no {attribute!r}."
            f"{nearest(attribute, vars(module))}"
        )
    return getattr(module, attribute)
