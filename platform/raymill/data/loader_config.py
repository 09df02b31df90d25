"""What shapes the batches of a loader, and where in them a run stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field, model_validator

from raymill.config import Spec, parse
from raymill.data.orders import ORDERS, Order


class LoaderConfig(Spec):
    """How an epoch is read. Everything here shapes the batches, and nothing else does."""

    order: str = "full"
    """Name in the table of read orders."""
    options: dict[str, Any] = {}
    """The order's own settings."""
    batch_rows: int = Field(default=1024, ge=1)
    """Rows of a global batch, over all workers; the last may be smaller."""
    lanes: int = Field(default=1, ge=1)
    """Virtual workers among which an epoch is dealt; must divide batch_rows."""
    window: int = Field(default=4, ge=1)
    """Row groups of one lane that are mixed together; memory is two windows a lane."""
    shuffle: bool = True
    """Mix rows inside windows; row groups are put in random order by the read order."""
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _lanes_divide_batch(self) -> LoaderConfig:
        if self.batch_rows % self.lanes:
            raise ValueError(
                f"batch_rows must be a multiple of lanes, got {self.batch_rows} and {self.lanes}; "
                f"try batch_rows={max(1, round(self.batch_rows / self.lanes)) * self.lanes}"
            )
        self.make_order()
        return self

    def make_order(self) -> Order:
        """Return the read order with its options.

        Raises:
            SpecError: an unknown order, or options that it does not take.
        """
        found: Any = ORDERS.load(self.order)
        order: Order = parse(found, self.options, source=f"options of read order {self.order!r}")
        return order


@dataclass(frozen=True)
class LoaderState:
    """Where a run stands: the next batch is step `step` of epoch `epoch`."""

    snapshot: str
    config: dict[str, Any]
    epoch: int
    step: int
    lane_steps: tuple[int, ...] | None = None
    """The next step of each lane, where lanes are pulled on their own; `step` is the smallest."""
