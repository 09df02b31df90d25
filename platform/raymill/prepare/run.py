"""One preparation from spec to dataset. The result appears whole: written aside, then renamed."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymill.data import take_snapshot
from raymill.errors import Conflict, DataError
from raymill.prepare import card as cards
from raymill.prepare.rows import ERROR, NO_OUTCOME, NO_SPLIT, SPLIT, Joiner, transform_or_explain
from raymill.prepare.sources import identity, open_dataset, read_table, resolve
from raymill.prepare.spec import PrepareSpec, SourceSpec
from raymill.storage import Location, locate


def prepare(spec: PrepareSpec) -> dict[str, Any]:
    """Run `spec` on the connected Ray cluster and return counts, and where the data and its card are.

    A dataset that the same spec made from the same source files is left as it is.

    Raises:
        Conflict: the output exists and was made otherwise, and `replace` is false.
        DataError: sources, expressions or types that do not fit; an empty split.
    """
    for source in _sources(spec):
        resolve(source)
    output = locate(spec.output)
    output.check_writable()
    made_from = fingerprint(spec)
    existing = _existing_card(output)
    if existing and existing["made_from"] == made_from:
        print(f"{output.uri}: up to date, nothing to do", flush=True)
        return _summary(output, existing, unchanged=True)
    if not spec.replace and any(not child.name.startswith(".") for child in output.children()):
        raise Conflict(
            f"{output.uri!r} holds a dataset that another spec or other source files made; "
            "choose another output, or --set replace=true"
        )
    table_counts, splits = _split_rows(spec)
    aside = _aside(output)
    try:
        card = _write(spec, aside, table_counts, splits) | {"made_from": made_from}
        (aside / cards.CARD_JSON).write_bytes(cards.to_json(card))
        (aside / cards.CARD_MARKDOWN).write_bytes(cards.to_markdown(card))
        _reveal(aside, output)
    except BaseException:
        if aside.path != output.path:
            aside.remove()
        raise
    return _summary(output, card, unchanged=False)


def _sources(spec: PrepareSpec) -> list[SourceSpec]:
    return [spec.source, *(join.source for join in spec.joins)]


def fingerprint(spec: PrepareSpec) -> str:
    """Return a hash over the spec and the identity of every source file."""
    document = {
        "spec": spec.model_dump(mode="json", exclude={"replace"}),
        "sources": [identity(source) for source in _sources(spec)],
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def _summary(output: Location, card: dict[str, Any], *, unchanged: bool) -> dict[str, Any]:
    splits = {
        name: {key: found[key] for key in ("rows", "row_groups", "files", "snapshot")}
        for name, found in card["splits"].items()
    }
    return {
        "output": output.uri, "unchanged": unchanged, "counts": card["counts"], "splits": splits,
        "card": (output / cards.CARD_MARKDOWN).uri,
    }  # fmt: skip


def _split_rows(spec: PrepareSpec) -> tuple[dict[str, int], dict[str, Any]]:
    """Return rows by split (and by reason for having none), and each split as a Ray Dataset."""
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True  # equal specs give equal files
    context.enable_progress_bars = False  # in a log they are pages of noise; what was done is printed here
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    print(f"reading {spec.source.path}", flush=True)
    joiners = ray.put([Joiner.of(join, read_table(join.source)) for join in spec.joins])
    rows = (
        open_dataset(spec.source)
        .map_batches(
            lambda table: transform_or_explain(table, spec, ray.get(joiners)),
            batch_format="pyarrow", batch_size=None, zero_copy_batch=True,
        )
        .materialize()
    )  # fmt: skip
    counted = rows.map_batches(_count_splits, batch_format="pyarrow").take_all()
    counts: dict[str, int] = Counter()
    for row in counted:
        if row["split"].startswith(ERROR):
            raise DataError(row["split"].removeprefix(ERROR))
        counts[row["split"]] += row["rows"]
    print(
        f"read {sum(counts.values()):,} rows: {counts[NO_OUTCOME]:,} with a null in "
        f"{', '.join(spec.require) or 'no column'}, {counts[NO_SPLIT]:,} in no split",
        flush=True,
    )
    for name, condition in spec.split.items():
        if not counts.get(name):
            raise DataError(
                f"split {name!r} ({condition}) holds no rows; of {sum(counts.values()):,} rows read"
            )
    return counts, {name: rows.map_batches(_Only(name), batch_format="pyarrow") for name in spec.split}


def _count_splits(table: pa.Table) -> pa.Table:
    counted = table[SPLIT].value_counts()
    return pa.table({"split": counted.field("values"), "rows": counted.field("counts")})


class _Only:
    """Keeps the rows of one split."""

    def __init__(self, split: str) -> None:
        self._split = split

    def __call__(self, table: pa.Table) -> pa.Table:
        return table.filter(pc.equal(table[SPLIT], self._split)).drop_columns([SPLIT])

    __name__ = "split"


def _write(
    spec: PrepareSpec, root: Location, counts: dict[str, int], splits: dict[str, Any]
) -> dict[str, Any]:
    described = {}
    for name, rows in splits.items():
        folder = root / name
        folder.make_directory()
        _write_files(rows, counts[name], folder, spec)
        described[name] = cards.describe(take_snapshot(folder))
        print(f"{name}: {described[name]['rows']:,} rows in {described[name]['files']} files", flush=True)
    return {
        "counts": {
            "read": sum(counts.values()),
            "no_outcome": counts.get(NO_OUTCOME, 0),
            "outside": counts.get(NO_SPLIT, 0),
        },
        "splits": described,
    }


def _write_files(rows: Any, count: int, folder: Location, spec: PrepareSpec) -> None:
    """Write a split as files of `file_rows` rows, cut exactly, by one task a file."""
    import ray

    edges = np.arange(spec.file_rows, count, spec.file_rows).tolist()
    parts = rows.materialize().split_at_indices(edges) if edges else [rows.materialize()]
    write = ray.remote(num_cpus=1)(_write_file)
    done = [
        write.remote(folder / f"part-{number:05d}.parquet", spec.row_group_rows, *part.to_arrow_refs())
        for number, part in enumerate(parts)
    ]
    ray.get(done)


def _write_file(target: Location, row_group_rows: int, *tables: pa.Table) -> None:
    table = pa.concat_tables(table for table in tables if table.num_rows)
    with target.filesystem.open_output_stream(target.path) as stream:
        pq.write_table(table, stream, row_group_size=row_group_rows, compression="zstd")


def _existing_card(output: Location) -> dict[str, Any] | None:
    card = output / cards.CARD_JSON
    return json.loads(card.read_bytes()) if card.exists() else None


def _aside(output: Location) -> Location:
    """Return where to write: beside the output where a rename is one step, else the output itself."""
    if not output.renames_are_atomic():
        return output
    return Location(
        output.filesystem, f"{output.path.rstrip('/')}.preparing-{uuid.uuid4().hex[:8]}", output.uri
    )


def _reveal(aside: Location, output: Location) -> None:
    if aside.path == output.path:
        return
    old = Location(output.filesystem, f"{aside.path}.replaced", output.uri)
    output.filesystem.move(output.path, old.path)
    output.filesystem.move(aside.path, output.path)
    old.remove()
