"""The kinds of parameters, each a map between its values and the unit interval.

Searchers work on unit coordinates u in [0, 1]: `decode(u)` is the value there, `encode(value)` the
middle of what decodes to it. Equal stretches of u are equally likely.
"""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, JsonValue, field_validator, model_validator

from raymill.config import Spec

# N = points

_HALF = 0.5  # log ranges of integers reach half a step beyond both ends, so that ends get their share


def identity(value: Any) -> str:
    """Return a key that tells values apart as JSON does: 1, 1.0 and true are three values."""
    return json.dumps(value, sort_keys=True, default=str)


class Parameter(Spec):
    """What all kinds share."""

    when: str | dict[str, Any] | None = None
    """The parameter exists only where this holds: {other: value}, {other: [values]}, or an expression."""

    ordered: ClassVar[bool] = True
    """Whether near coordinates mean alike values."""

    @property
    @abstractmethod
    def levels(self) -> int | None:
        """How many values there are; None for a continuum."""

    @abstractmethod
    def decode(self, unit: float) -> Any:
        """Return the value at `unit`, which is clipped to [0, 1]."""

    @abstractmethod
    def encode(self, value: Any) -> float:
        """Return the coordinate of a value; `contains(value)` must hold."""

    @abstractmethod
    def contains(self, value: Any) -> bool:
        """Return whether this is one of the parameter's values, in its type."""

    @abstractmethod
    def all_values(self) -> list[Any]:
        """Return every value, in order; only where `levels` is a number."""

    def snap_N(self, unit_N: np.ndarray) -> np.ndarray:
        """Return for each coordinate that of the value there: float64 [N]."""
        unit_N = np.clip(unit_N, 0.0, 1.0)
        count = self.levels
        if count is None:
            return unit_N
        return np.asarray((np.minimum(np.floor(unit_N * count), count - 1) + 0.5) / count)

    def describe(self) -> str:
        """Return the values in words, for messages."""
        shown = self.model_dump(exclude_defaults=True, exclude={"type", "when"})
        return f"{getattr(self, 'type', '')} {', '.join(f'{key} {value}' for key, value in shown.items())}"


class _Number(Parameter):
    low: Any
    high: Any
    log: bool = False
    """Equal ratios are equally likely; the range must be positive."""
    step: Any = None
    default: Any = None
    """Taken where an entry of the space's `defaults` leaves this parameter out; else the middle."""

    @model_validator(mode="after")
    def _range(self) -> _Number:
        if self.low > self.high:
            raise ValueError(f"low must not be above high, got low {self.low} and high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log range must be above zero, got low {self.low}; raise low or drop log")
        if self.default is not None and not self.contains(self.default):
            raise ValueError(f"default {self.default!r} is none of its values: {self.describe()}")
        return self

    @cached_property
    def _count(self) -> int | None:
        if self.low == self.high:
            return 1
        return None if self.step is None else int((self.high - self.low) / self.step + 1e-9) + 1

    @property
    def levels(self) -> int | None:
        return self._count

    @cached_property
    def _log_ends(self) -> tuple[float, float]:
        half = 0.0 if self.step is None else _HALF * self.step
        low = self.low - half if self.low > half else self.low * _HALF
        top = self.high if self._count is None else self.low + (self._count - 1) * (self.step or 0)
        return math.log(low), math.log(top + half)

    def decode(self, unit: float) -> Any:
        unit = min(max(float(unit), 0.0), 1.0)
        if self.log:
            first, last = self._log_ends
            value = math.exp(first + unit * (last - first))
            if self._count is None:
                return float(min(max(value, self.low), self.high))
            index = round((value - self.low) / self.step) if self.step else 0
        elif self._count is None:
            return float(self.low + unit * (self.high - self.low))
        else:
            index = math.floor(unit * self._count)
        return self._level(min(max(index, 0), self._count - 1))

    def encode(self, value: Any) -> float:
        if self._count == 1:
            return 0.5
        if self.log:
            first, last = self._log_ends
            return min(max((math.log(value) - first) / (last - first), 0.0), 1.0)
        if self._count is None:
            return float((value - self.low) / (self.high - self.low))
        return float((round((value - self.low) / self.step) + 0.5) / self._count)

    def snap_N(self, unit_N: np.ndarray) -> np.ndarray:
        if self.log and self._count is not None:
            return np.array([self.encode(self.decode(unit)) for unit in unit_N], float)
        return super().snap_N(unit_N)

    def all_values(self) -> list[Any]:
        return [self._level(index) for index in range(self._count or 0)]

    def _level(self, index: int) -> Any:
        return self.low + index * (self.step or 0)


class Float(_Number):
    """A real number in [low, high]; with `step`, one of low, low + step, ..."""

    type: Literal["float"] = "float"
    low: float
    high: float
    step: float | None = Field(default=None, gt=0)
    default: float | None = None

    def contains(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not self.low <= value <= self.high or self.step is None:
            return bool(self.low <= value <= self.high)
        index = (value - self.low) / self.step
        return abs(index - round(index)) < 1e-6

    def _level(self, index: int) -> float:
        return min(
            float(f"{self.low + index * (self.step or 0.0):.12g}"), self.high
        )  # no 0.30000000000000004


class Int(_Number):
    """An integer in [low, high]: low, low + step, ..."""

    type: Literal["int"] = "int"
    low: int
    high: int
    step: int = Field(default=1, gt=0)
    default: int | None = None

    def contains(self, value: Any) -> bool:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and self.low <= value <= self.high and (value - self.low) % self.step == 0


class _Listed(Parameter):
    @property
    @abstractmethod
    def choices(self) -> tuple[Any, ...]:
        """The values, in order."""

    @cached_property
    def _index(self) -> Mapping[str, int]:
        return {identity(value): at for at, value in enumerate(self.choices)}

    @property
    def levels(self) -> int:
        return len(self.choices)

    def decode(self, unit: float) -> Any:
        return self.choices[min(max(math.floor(float(unit) * self.levels), 0), self.levels - 1)]

    def encode(self, value: Any) -> float:
        return (self._index[identity(value)] + 0.5) / self.levels

    def contains(self, value: Any) -> bool:
        return identity(value) in self._index

    def all_values(self) -> list[Any]:
        return list(self.choices)


class _Values(_Listed):
    values: tuple[JsonValue, ...]
    """What it can be: numbers, text, true, false, null, or lists and mappings of them."""
    default: JsonValue = None
    """Taken where an entry of the space's `defaults` leaves this parameter out; else the middle one."""

    @field_validator("values")
    @classmethod
    def _distinct(cls, values: tuple[JsonValue, ...]) -> tuple[JsonValue, ...]:
        if not values:
            raise ValueError("at least one value is needed")
        if len({identity(value) for value in values}) < len(values):
            raise ValueError("values must differ from each other")
        return values

    @model_validator(mode="after")
    def _default_is_a_value(self) -> _Values:
        if self.default is not None and not self.contains(self.default):
            raise ValueError(f"default {self.default!r} is none of its values: {list(self.values)}")
        return self

    @property
    def choices(self) -> tuple[Any, ...]:
        return self.values


class Categorical(_Values):
    """One of values that have no order."""

    type: Literal["categorical"] = "categorical"
    ordered: ClassVar[bool] = False


class Ordinal(_Values):
    """One of values whose order means something: neighbours are alike."""

    type: Literal["ordinal"] = "ordinal"


class Boolean(_Listed):
    """False or true."""

    type: Literal["boolean"] = "boolean"
    default: bool | None = None
    ordered: ClassVar[bool] = False

    @property
    def choices(self) -> tuple[Any, ...]:
        return (False, True)


class Fixed(_Listed):
    """One value that every trial gets."""

    type: Literal["fixed"] = "fixed"
    value: JsonValue

    @property
    def choices(self) -> tuple[Any, ...]:
        return (self.value,)


AnyParameter = Annotated[Float | Int | Categorical | Ordinal | Boolean | Fixed, Field(discriminator="type")]
