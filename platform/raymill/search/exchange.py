"""Spaces from and to Optuna's distributions and Ray Tune's domains.

Both are flat: what they cannot say (conditions, constraints) is refused by name on the way out, and what
a space cannot say (normal distributions, functions) on the way in. Neither library is imported to read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from raymill.errors import Unsupported, needs_extra
from raymill.search.parameters import (
    AnyParameter,
    Boolean,
    Categorical,
    Fixed,
    Float,
    Int,
    Ordinal,
    Parameter,
    identity,
)
from raymill.search.space import Space

_PLAIN = (str, int, float, bool, type(None))


def from_optuna(distributions: Mapping[str, Any]) -> Space:
    """Return the space of a study's distributions, such as `trial.distributions`.

    Raises:
        Unsupported: one is no distribution of Optuna's.
    """
    return Space(parameters={name: _of_optuna(name, one) for name, one in distributions.items()})


def to_optuna(space: Space) -> dict[str, Any]:
    """Return Optuna's distributions of a space's parameters. Ordinals become categorical.

    Raises:
        Unsupported: the space has conditions, constraints, stepped log floats, or values of another type
            than text, numbers, booleans and null.
    """
    _check_flat(space, "Optuna's distributions")
    with needs_extra("optuna"):
        from optuna import distributions
    found: dict[str, Any] = {}
    for name, one in space.parameters.items():
        if isinstance(one, Float | Int):
            if one.log and one.step not in (None, 1):
                raise Unsupported(
                    f"parameter {name!r} has log and step {one.step}, and Optuna's log ranges have no steps; "
                    "drop one of them"
                )
            kind = (
                distributions.FloatDistribution if isinstance(one, Float) else distributions.IntDistribution
            )
            step = None if one.log and isinstance(one, Float) else one.step
            found[name] = kind(one.low, _last(one), log=one.log, step=step)
            continue
        values = one.all_values()
        if strange := [value for value in values if not isinstance(value, _PLAIN)]:
            raise Unsupported(
                f"parameter {name!r} has value {strange[0]!r}, and Optuna's choices are text, numbers, "
                "booleans or null; give each a name and translate it in the objective"
            )
        found[name] = distributions.CategoricalDistribution(values)
    return found


def from_tune(param_space: Mapping[str, Any]) -> Space:
    """Return the space of a Ray Tune `param_space`; keys of nested mappings are joined by dots.

    Grid searches become ordinals, everything that is no domain a fixed value.

    Raises:
        Unsupported: a domain is normal, or draws from a function.
    """
    return Space(parameters=dict(_of_tune("", param_space)))


def to_tune(space: Space) -> dict[str, Any]:
    """Return Ray Tune's domains of a space's parameters, for `Tuner(param_space=...)`.

    Steps that do not start at a multiple of themselves become choices; ordinals do too.

    Raises:
        Unsupported: the space has conditions or constraints, or a log range with such steps.
    """
    _check_flat(space, "Ray Tune's domains")
    return {name: _to_domain(name, one) for name, one in space.parameters.items()}


def _check_flat(space: Space, whose: str) -> None:
    if space.conditional:
        raise Unsupported(
            f"parameter {space.conditional[0]!r} exists only under a condition, which {whose} cannot say; "
            "drop its `when`"
        )
    if space.constraints:
        raise Unsupported(
            f"the space has constraint {space.constraints[0]!r}, which {whose} cannot say; drop it, and "
            "fail or penalise such trials in the objective"
        )


def _last(one: Float | Int) -> Any:
    """Return the highest value that is reached."""
    return one.high if one.levels is None else one.all_values()[-1]


def _of_optuna(name: str, one: Any) -> AnyParameter:
    kinds = {kind.__name__ for kind in type(one).__mro__}  # the older classes derive from these
    if "FloatDistribution" in kinds:
        return Float(low=one.low, high=one.high, log=one.log, step=one.step)
    if "IntDistribution" in kinds:
        return Int(low=one.low, high=one.high, log=one.log, step=one.step)
    if "CategoricalDistribution" in kinds:
        return _listed(one.choices)
    raise Unsupported(f"parameter {name!r} is no distribution of Optuna's: {one!r}")


def _listed(values: Any) -> AnyParameter:
    values = tuple(values)
    if len(values) == 1:
        return Fixed(value=values[0])
    if [identity(value) for value in values] == [identity(False), identity(True)]:
        return Boolean()
    return Categorical(values=values)


def _of_tune(prefix: str, found: Mapping[str, Any]) -> list[tuple[str, AnyParameter]]:
    parameters: list[tuple[str, AnyParameter]] = []
    for key, value in found.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value.keys() == {"grid_search"}:
            values = tuple(value["grid_search"])
            parameters.append((name, Ordinal(values=values) if len(values) > 1 else _listed(values)))
        elif isinstance(value, Mapping) and value:
            parameters += _of_tune(f"{name}.", value)
        elif type(value).__module__.startswith("ray.tune"):
            parameters.append((name, _of_domain(name, value)))
        else:
            parameters.append((name, Fixed(value=value)))
    return parameters


def _of_domain(name: str, domain: Any) -> AnyParameter:
    kind, sampler, step = type(domain).__name__, domain.get_sampler(), None
    if kind == "Categorical":
        return _listed(domain.categories)
    if hasattr(sampler, "q"):
        sampler, step = sampler.get_sampler(), sampler.q
    shape = next((base.__name__ for base in type(sampler).__mro__ if base.__name__[0] != "_"), "")
    if kind not in ("Float", "Integer") or shape not in ("Uniform", "LogUniform"):
        raise Unsupported(
            f"parameter {name!r} is {domain!r} of Ray Tune ({shape or kind}), and a space has ranges and "
            "lists only; give it a range"
        )
    log, low, high = shape == "LogUniform", domain.lower, domain.upper
    if step is not None and not (kind == "Integer" and step == 1):
        low, high = math.ceil(low / step - 1e-9) * step, math.floor(high / step + 1e-9) * step
        if kind == "Integer":
            return Int(low=int(low), high=int(high), log=log, step=int(step))
        return Float(low=low, high=high, log=log, step=step)
    if kind == "Integer":
        return Int(low=low, high=high - 1, log=log)  # Tune leaves out the upper end
    return Float(low=low, high=high, log=log)


def _to_domain(name: str, one: Parameter) -> Any:
    with needs_extra("ray"):
        from ray import tune
    if isinstance(one, Fixed) or one.levels == 1:
        return one.all_values()[0]
    if not isinstance(one, Float | Int):
        return tune.choice(one.all_values())
    if one.step is None or (isinstance(one, Int) and one.step == 1):
        if isinstance(one, Float):
            return (tune.loguniform if one.log else tune.uniform)(one.low, one.high)
        return (tune.lograndint if one.log else tune.randint)(one.low, one.high + 1)
    if abs(one.low / one.step - round(one.low / one.step)) < 1e-9:
        if isinstance(one, Float):
            return (tune.qloguniform if one.log else tune.quniform)(one.low, _last(one), one.step)
        return (tune.qlograndint if one.log else tune.qrandint)(one.low, _last(one), one.step)
    if one.log:
        raise Unsupported(
            f"parameter {name!r} has log and steps of {one.step} from {one.low}, and Ray Tune's steps "
            "start at a multiple of themselves; drop log or step, or move low"
        )
    return tune.choice(one.all_values())
