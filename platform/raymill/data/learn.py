"""Learning an encoder in one process, for notebooks; `jobs/train.py` does the same in Ray tasks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import reduce

import numpy as np

from raymill.data.decode import RowGroupReader
from raymill.data.snapshot import Snapshot
from raymill.features import Encoder
from raymill.fitting import ColumnStatistics, FeaturePlan

THREADS = 2


def learn_encoder(plan: FeaturePlan, snapshot: Snapshot, *, threads: int = THREADS) -> Encoder:
    """Return the encoder fitted on every row of `snapshot`; equal for any number of threads.

    Raises:
        DataError: as `FeaturePlan.fit`, or a file that cannot be read.
    """
    reader = RowGroupReader(snapshot, plan.names)
    groups = np.flatnonzero(snapshot.group_rows_G).tolist()
    with ThreadPoolExecutor(threads, thread_name_prefix="learn") as pool:
        parts = pool.map(lambda group: plan.statistics(reader.table(group)), groups)
        return plan.fit(reduce(ColumnStatistics.merge, parts))
