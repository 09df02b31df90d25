"""The data card: rows, nulls and ranges per column and split, read off the footers just written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from raymill.data import Snapshot

CARD_JSON, CARD_MARKDOWN = "_card.json", "_card.md"


@dataclass(frozen=True)
class ColumnCard:
    """One column of one split."""

    type: str
    nulls: int
    minimum: Any
    maximum: Any


def describe(snapshot: Snapshot) -> dict[str, Any]:
    """Return rows, row groups, snapshot id, and per column: type, nulls, smallest and largest value."""
    columns = {field.name: ColumnCard(str(field.type), 0, None, None) for field in snapshot.schema}
    for number in range(len(snapshot.files)):
        with (snapshot.root / snapshot.files[number].path).open_input() as file:
            footer = pq.read_metadata(file)
        for g in range(footer.num_row_groups):
            group = footer.row_group(g)
            for c in range(group.num_columns):
                name = group.column(c).path_in_schema
                columns[name] = _widen(columns[name], group.column(c).statistics)
    return {
        "rows": snapshot.rows,
        "row_groups": snapshot.groups,
        "files": len(snapshot.files),
        "snapshot": snapshot.id,
        "columns": {name: vars(card) for name, card in columns.items()},
    }


def to_json(card: dict[str, Any]) -> bytes:
    return json.dumps(card, indent=1, default=str).encode()


def to_markdown(card: dict[str, Any]) -> bytes:
    """Return the card as a page a person reads."""
    counts = card["counts"]
    lines = [
        "# Data card",
        "",
        f"{counts['read']:,} rows read, {counts['no_outcome']:,} left out for a null in ",
    ]
    lines[-1] += f"a required column, {counts['outside']:,} in no split."
    for split, found in card["splits"].items():
        lines += ["", f"## {split}: {found['rows']:,} rows in {found['row_groups']} row groups", ""]
        lines += ["| column | type | nulls | smallest | largest |", "|---|---|---|---|---|"]
        for name, column in found["columns"].items():
            cells = (name, column["type"], f"{column['nulls']:,}", column["minimum"], column["maximum"])
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return ("\n".join(lines) + "\n").encode()


def _widen(card: ColumnCard, statistics: Any) -> ColumnCard:
    if statistics is None:
        return card
    low, high = card.minimum, card.maximum
    if statistics.has_min_max:
        low = _positive_zero(statistics.min if low is None else min(low, statistics.min))
        high = _positive_zero(statistics.max if high is None else max(high, statistics.max))
    return ColumnCard(card.type, card.nulls + (statistics.null_count or 0), low, high)


def _positive_zero(value: Any) -> Any:
    """Return 0.0 for the -0.0 that Parquet writes as the smallest zero; anything else as it is."""
    return value + 0.0 if isinstance(value, float) else value
