"""COCO's problems for benchmarks/search.py, read alike in our environment and in the peers'."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cocoex


@dataclass(frozen=True)
class Problem:
    """One function to minimise; its first `integers` coordinates are whole numbers."""

    name: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    integers: int
    optimum: float | None
    """None where COCO does not tell, as for bbob-mixint."""
    value: Callable[[Sequence[float]], float]


def problems(
    suite: str, functions: Sequence[int], instances: Sequence[int], dimension: int
) -> Iterator[Problem]:
    """Yield the problems of `bbob` (box [-5, 5]) or `bbob-mixint`."""
    if suite == "bbob":
        for function in functions:
            for instance in instances:
                bare = cocoex.BareProblem("bbob", function, dimension, instance)
                yield Problem(
                    f"{function}/{instance}", (-5.0,) * dimension, (5.0,) * dimension, 0,
                    float(bare.best_value()), bare,
                )  # fmt: skip
        return
    wanted = ",".join(map(str, functions)), ",".join(map(str, instances))
    options = f"dimensions:{dimension} function_indices:{wanted[0]} instance_indices:{wanted[1]}"
    for found in cocoex.Suite(suite, "", options):
        yield Problem(
            f"{found.id_function}/{found.id_instance}", tuple(found.lower_bounds),
            tuple(found.upper_bounds), found.number_of_integer_variables, None, found,
        )  # fmt: skip


def numbers(text: str) -> list[int]:
    """Return what a flag such as `1-5` or `1,8,15` lists."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
