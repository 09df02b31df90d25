"""Part of the rows an epoch: whole row groups, rows of all of them, or both; rotating through all rows.

Cost follows the sample where whole row groups are drawn: what is not drawn is not read. Drawing
rows out of every row group decodes every row group; it mixes best and costs most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from raymill.config import Spec
from raymill.data.orders import EpochPlan, Pick
from raymill.data.snapshot import Snapshot
from raymill.errors import DataError, SpecError

# G = row groups with rows, K = drawn row groups, S = strata

_GROUP_STAGE, _ROW_STAGE = 0, 1  # keep the random numbers of the two stages apart


class SampledOrder(Spec):
    """A sample of `fraction` of the rows each epoch."""

    fraction: float = Field(gt=0, le=1)
    """Share of the rows an epoch reads; at least one row group."""
    unit: Literal["row_groups", "rows", "two_stage"] = "row_groups"
    """row_groups: whole ones, cheapest. rows: some rows of each, mixes best, decodes everything.
    two_stage: the share `within` of the rows of fewer row groups."""
    within: float = Field(default=0.5, gt=0, le=1)
    """two_stage: share of the rows read of a drawn row group; row groups drawn are fraction / within."""
    rotate: bool = True
    """Epochs take disjoint samples until every row was seen, then draw anew. Else every epoch draws
    on its own."""
    stratify: str | None = None
    """Column whose values are all represented: a partition folder, or a column whose row groups
    differ in their statistics."""
    strata: int = Field(default=10, ge=2)
    """For a column with statistics: row groups are ordered by its smallest value and cut to so many
    strata."""
    allocation: Literal["proportional", "equal"] = "proportional"
    """equal: as many row groups from every stratum; batches then carry the weights that undo it."""

    @model_validator(mode="after")
    def _consistent(self) -> SampledOrder:
        if self.unit == "two_stage" and self.within < self.fraction:
            raise ValueError(
                f"two_stage reads `within` of each drawn row group, which must be at least `fraction`, got "
                f"within {self.within} and fraction {self.fraction}"
            )
        if self.allocation == "equal" and (self.stratify is None or self.rotate):
            raise ValueError(
                "allocation equal needs `stratify`, and `rotate: false`, for small strata would run out first"
            )
        return self

    @property
    def statistics_columns(self) -> list[str]:
        """Return the columns whose row-group statistics a plan needs, unless they are partitions."""
        return [] if self.stratify is None else [self.stratify]

    def plan(self, snapshot: Snapshot, *, seed: int, epoch: int) -> EpochPlan:
        """Return the sample of an epoch.

        Raises:
            SpecError: the strata's column is neither a partition nor in the snapshot's statistics.
            DataError: the sample is empty.
        """
        groups_G = np.flatnonzero(snapshot.group_rows_G)
        group_share, row_share = self._shares()
        drawn = max(1, round(group_share * len(groups_G)))
        group_cycle, group_part = divmod(epoch, -(-len(groups_G) // drawn)) if self.rotate else (epoch, 0)
        stratum_G = self._strata(snapshot, groups_G)
        rng = np.random.default_rng([seed, _GROUP_STAGE, group_cycle])
        if self.allocation == "equal":
            groups_K, weights_K = _draw_equal(groups_G, stratum_G, drawn, rng)
        else:
            sequence_G = groups_G[_spread(stratum_G, rng)]
            groups_K, weights_K = sequence_G[group_part * drawn : (group_part + 1) * drawn], None
        if row_share == 1:
            return EpochPlan(groups_K, snapshot.group_rows_G[groups_K], None, weights_K)
        parts = -(-1 // row_share)
        row_cycle, row_part = divmod(group_cycle, int(parts)) if self.rotate else (epoch, 0)
        return _rows_within(snapshot, groups_K, weights_K, row_share, row_part, (seed, _ROW_STAGE, row_cycle))

    def _shares(self) -> tuple[float, float]:
        """Return the share of row groups drawn, and of rows within each."""
        if self.unit == "row_groups":
            return self.fraction, 1.0
        if self.unit == "rows":
            return 1.0, self.fraction
        return self.fraction / self.within, self.within

    def _strata(self, snapshot: Snapshot, groups_G: np.ndarray) -> np.ndarray:
        """Return int64 [G]: each row group's stratum."""
        if self.stratify is None:
            return np.zeros(len(groups_G), np.int64)
        values_M = snapshot.partitions.get(self.stratify)
        if values_M is not None:
            codes_M = values_M.dictionary_encode(null_encoding="encode").indices.to_numpy()
            return np.asarray(codes_M[snapshot.group_file_G[groups_G]], np.int64)
        minimum_G = snapshot.statistics.get(self.stratify)
        if minimum_G is None:
            raise SpecError(
                f"column {self.stratify!r} is no partition of the data, and its statistics were not read; "
                f"have partitions: {', '.join(snapshot.partitions) or 'none'}; use "
                f"with_statistics(snapshot, [{self.stratify!r}])"
            )
        rank_G = np.argsort(np.argsort(minimum_G[groups_G], kind="stable"), kind="stable")
        return np.asarray(rank_G * min(self.strata, len(groups_G)) // len(groups_G), np.int64)


def _spread(stratum_G: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a random order of the row groups in which every stretch holds each stratum's share.

    The j-th of a stratum's n row groups is placed at (j + u) / n of the way, u random.
    """
    order_G = rng.permutation(len(stratum_G))
    if not stratum_G.any():
        return order_G
    strata, code_G = np.unique(stratum_G[order_G], return_inverse=True)
    size_S = np.bincount(code_G)
    by_stratum_G = np.argsort(code_G, kind="stable")
    place_G = np.empty(len(order_G), np.int64)
    starts_S = np.cumsum(size_S) - size_S
    place_G[by_stratum_G] = np.arange(len(order_G)) - np.repeat(starts_S, size_S)
    shift_S = rng.random(len(strata))
    key_G = (place_G + shift_S[code_G]) / size_S[code_G]
    return np.asarray(order_G[np.argsort(key_G, kind="stable")])


def _draw_equal(
    groups_G: np.ndarray, stratum_G: np.ndarray, drawn: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return row groups, as many of each stratum as there are, and how many each stands for."""
    strata = np.unique(stratum_G)
    each = max(1, drawn // len(strata))
    chosen, weights = [], []
    for stratum in strata:
        members = groups_G[stratum_G == stratum]
        taken = rng.permutation(members)[:each]
        chosen.append(taken)
        weights.append(np.full(len(taken), len(members) / len(taken), np.float32))
    order_K = rng.permutation(sum(map(len, chosen)))
    return np.concatenate(chosen)[order_K], np.concatenate(weights)[order_K]


def _rows_within(
    snapshot: Snapshot,
    groups_K: np.ndarray,
    weights_K: np.ndarray | None,
    share: float,
    part: int,
    key: Sequence[int],
) -> EpochPlan:
    """Return the plan that reads part `part` of a random order of each row group's rows."""
    rows_G = snapshot.group_rows_G
    shift_G = np.random.default_rng(list(key)).random(len(rows_G))

    def bounds(groups: np.ndarray | int, number: int) -> np.ndarray:
        at = min(number * share, 1.0)
        if at in (0.0, 1.0):
            return np.asarray(rows_G[groups] * int(at))
        # a random shift before rounding down: each part is read of `share` of the rows on average
        low: np.ndarray = np.floor(rows_G[groups] * at + shift_G[groups]).astype(np.int64)
        return np.asarray(np.minimum(low, rows_G[groups]))

    rows_K = bounds(groups_K, part + 1) - bounds(groups_K, part)
    kept_K = rows_K > 0
    if not kept_K.any():
        raise DataError(
            f"a share {share} of the rows of {len(groups_K)} row groups with {int(rows_G[groups_K].sum())} "
            "rows is no row at all; raise the fraction"
        )

    def pick_rows(group: int) -> np.ndarray:
        low, high = int(bounds(group, part)), int(bounds(group, part + 1))
        order_N = np.random.default_rng([*key, group]).permutation(int(rows_G[group]))
        return np.sort(order_N[low:high])

    pick: Pick = pick_rows
    return EpochPlan(groups_K[kept_K], rows_K[kept_K], pick, None if weights_K is None else weights_K[kept_K])
