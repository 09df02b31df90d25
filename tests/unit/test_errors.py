"""Typed errors: kinds, messages that survive pickling, the nearest name, the missing extra."""

from __future__ import annotations

import pickle
from typing import get_args

import pytest
import ray.cloudpickle

from raymill import errors
from raymill.errors import RaymillError, Unavailable, nearest, needs_extra

ERRORS = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, RaymillError)
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
@pytest.mark.parametrize("library", [pickle, ray.cloudpickle], ids=["pickle", "cloudpickle"])
def test_an_error_keeps_type_message_and_kind_through_pickling(error, library):
    message = "rule 'x' is broken: got 3;\n  use 4, ünïcode %s {braces}"
    back = library.loads(library.dumps(error(message)))
    assert type(back) is error
    assert str(back) == message
    assert back.kind == error.kind


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_kind_is_one_that_protocols_know(error):
    assert error.kind in get_args(errors.Kind)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.SpecError, "invalid"),
        (errors.DataError, "invalid"),
        (errors.NotFound, "not_found"),
        (errors.Conflict, "conflict"),
        (errors.Corrupt, "internal"),
    ],
)
def test_kinds(error, kind):
    assert error("x").kind == kind


def test_nearest_names_the_closest_and_keeps_silent_when_none_is_close():
    assert nearest("workes", ["workers", "window", "model"]) == " Did you mean 'workers'?"
    assert nearest("zzz", ["workers", "window"]) == ""
    assert nearest("x", []) == ""
    assert nearest("workers" * 1_000_000, ["workers"] * 1_000) == ""  # at once: clients may send such names


def test_needs_extra_names_the_package_and_the_extra():
    message = r"no_such_library is not installed.*raymill\[torch\]"
    with pytest.raises(Unavailable, match=message), needs_extra("torch"):
        import no_such_library  # noqa: F401


def test_needs_extra_lets_other_errors_through():
    with pytest.raises(ZeroDivisionError), needs_extra("torch"):
        _ = 1 / 0
