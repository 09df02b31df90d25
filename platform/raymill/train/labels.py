"""Reading the answers of a dataset alone: what its labels must be before any worker starts."""

from __future__ import annotations

from typing import Any

from raymill.data import Snapshot
from raymill.data.decode import RowGroupReader
from raymill.errors import DataError
from raymill.train.spec import TrainSpec


def check_early_stopping(spec: TrainSpec, validation: Snapshot) -> None:
    """Refuse to watch an AUC that does not exist, for the validation set holds one class only.

    Reads row groups of the target's column until a second class is found, which is mostly the first.

    Raises:
        DataError: names the class, and what to watch instead.
    """
    rule: Any = getattr(spec.flavor_config(), "early_stopping", None)
    if rule is None or rule.metric_of(spec.task) != "auc":
        return
    reader, seen = RowGroupReader(validation, [spec.data.target]), set()
    for group in range(validation.groups):
        values = reader.table(group).column(0).combine_chunks().unique()
        seen |= {value for value in values.to_pylist() if value is not None}
        if len(seen) > 1:
            return
    raise DataError(
        f"early_stopping watches auc, which needs both classes: the validation data {validation.root} has "
        f"one class only, {next(iter(seen), None)!r}, in {validation.rows} rows; watch log_loss, or give "
        "validation data with both"
    )
