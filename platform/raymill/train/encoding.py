"""Learning the encoder from the training rows, in Ray tasks over runs of row groups where there are many."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from raymill.data import Snapshot
from raymill.data.decode import RowGroupReader
from raymill.features import Encoder
from raymill.fitting import ColumnStatistics, FeaturePlan

TASK_BYTES = (
    256 << 20
)  # uncompressed bytes of row groups a task reads; a task costs milliseconds, not seconds


def fit_encoder(plan: FeaturePlan, snapshot: Snapshot) -> Encoder:
    """Return the encoder fitted on every row of `snapshot`; equal for any number of workers."""
    runs = _runs(snapshot)
    if len(runs) == 1:  # read in less time than a worker takes to start
        return plan.fit(statistics_of((plan, snapshot), runs[0]))
    import ray

    task = ray.remote(num_cpus=1)(statistics_of)
    shared = ray.put((plan, snapshot))
    parts = ray.get([task.remote(shared, groups) for groups in runs])
    return plan.fit(functools.reduce(ColumnStatistics.merge, parts))


def statistics_of(shared: tuple[FeaturePlan, Snapshot], groups: Sequence[int]) -> ColumnStatistics:
    """Return the statistics of some row groups, merged in their order."""
    plan, snapshot = shared
    reader = RowGroupReader(snapshot, plan.names)
    return functools.reduce(
        ColumnStatistics.merge, (plan.statistics(reader.table(group)) for group in groups)
    )


def _runs(snapshot: Snapshot) -> list[list[int]]:
    runs: list[list[int]] = [[]]
    size = 0
    for group, group_bytes in enumerate(snapshot.group_bytes_G.tolist()):
        if runs[-1] and size + group_bytes > TASK_BYTES:
            runs.append([])
            size = 0
        runs[-1].append(group)
        size += group_bytes
    return runs
