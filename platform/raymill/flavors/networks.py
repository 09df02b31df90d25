"""Finding the network that a spec names, and holding it to what its loss needs; no framework in here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raymill.errors import RaymillError, SpecError
from raymill.features import Encoder
from raymill.flavors.options import BUILT_IN, GradientOptions
from raymill.registry import import_target

Build = Callable[[Encoder, GradientOptions], Any]


MAX_EMBEDDING = 32
STANDARDISED_LIMIT = 10.0  # clips what lies ten deviations out, so one wild value cannot blow up a step


def embedding_size(categories: int) -> int:
    """Return the width of an embedding: three times the fourth root, within [2, 32]."""
    return min(MAX_EMBEDDING, max(2, int(3.0 * categories**0.25 + 0.5)))


def own_network(options: GradientOptions) -> Callable[[Encoder, dict[str, Any]], Any] | None:
    """Return the callable that the spec names by its Python path; None for a built-in network.

    Raises:
        SpecError: no such module or attribute, or one that cannot be called.
    """
    if options.network in BUILT_IN:
        return None
    found = import_target(options.network, "network")
    if not callable(found):
        raise SpecError(
            f"network {options.network!r} is a {type(found).__name__}, which cannot be called; name a "
            "function or class that takes (encoder, options) and returns the network"
        )
    return found  # type: ignore[no-any-return]


def make_network(built_in: Mapping[str, Build], encoder: Encoder, options: GradientOptions) -> Any:
    """Return a fresh network with weights of the framework's present random state.

    Raises:
        SpecError: a callable that fails, with what it said.
    """
    build = own_network(options)
    if build is None:
        return built_in[options.network](encoder, options)
    try:
        return build(encoder, dict(options.options))
    except RaymillError:
        raise
    except Exception as error:
        raise SpecError(
            f"network {options.network!r} could not be made with options {options.options}: {error!r}"
        ) from error


def check_output(options: GradientOptions, encoder: Encoder, rows: int, found: Any) -> None:
    """Hold the shape of a network's output for `rows` rows to the task's loss.

    Args:
        found: A shape, or None where the network returned no tensor.

    Raises:
        SpecError: names what was found and what the task needs.
    """
    wanted: list[Sequence[int]] = [(rows, encoder.scores_per_row)]
    if encoder.scores_per_row == 1:
        wanted.append((rows,))
    if found is None or tuple(found) not in [tuple(shape) for shape in wanted]:
        got = "no tensor" if found is None else f"shape {list(found)}"
        last = "a score a row" if encoder.scores_per_row == 1 else f"{encoder.scores_per_row} scores a row"
        raise SpecError(
            f"network {options.network!r} returned {got} for {rows} rows; the loss of task {encoder.task} "
            f"needs {last}: {' or '.join(str(list(shape)) for shape in wanted)}, without an activation"
        )


def image_places(encoder: Encoder) -> list[tuple[str, slice]]:
    """Return each fixed-size list column with its place in `numeric_NF`; refuses an encoder without one."""
    places = [(column.name, encoder.place(column.name)) for column in encoder.columns if column.width > 1]
    if not places:
        raise SpecError(
            "network cnn needs a column of images, a fixed-size list of numbers, and there is none in "
            f"features {', '.join(encoder.names)}; use network mlp"
        )
    return places
