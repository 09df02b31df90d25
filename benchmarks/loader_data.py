"""The benchmark's data, and raymill's loader over it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymill.data import Loader, LoaderConfig, Snapshot, take_snapshot
from raymill.features import Encoder, FittedColumn

FILES, FEATURES, GROUP_ROWS = 16, 28, 50_000
NAMES = [f"f{i:02d}" for i in range(FEATURES)]


def generate(
    root: Path, *, rows_per_file: int = 250_000, files: int = FILES, group_rows: int = GROUP_ROWS
) -> None:
    """Write the files that are not there yet."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        path = root / f"part-{number:02d}.parquet"
        if path.exists():
            continue
        rng = np.random.default_rng([0, number])
        columns = {name: rng.standard_normal(rows_per_file, dtype=np.float32) for name in NAMES}
        columns["label"] = (rng.random(rows_per_file) < 0.3).astype(np.float32)
        pq.write_table(pa.table(columns), path, row_group_size=group_rows, compression="zstd")
    for path in sorted(root.iterdir()):
        path.read_bytes()  # the page cache is warm for everybody


def encoder_of(names: Iterable[str] = NAMES) -> Encoder:
    return Encoder(
        columns=tuple(
            FittedColumn(name=name, kind="numeric", dtype="float32", nulls="error", null_count=0)
            for name in names
        ),
        target="label",
        task="binary",
    )


def open_lake(root: Path) -> tuple[Snapshot, Encoder]:
    return take_snapshot(root), encoder_of()


def config_of(*, shuffle: bool = True, fraction: float | None = None, lanes: int = 1) -> LoaderConfig:
    sampled = {} if fraction is None else {"order": "sampled", "options": {"fraction": fraction}}
    return LoaderConfig(batch_rows=8192, lanes=lanes, shuffle=shuffle, **sampled)


def read(
    snapshot: Snapshot,
    encoder: Encoder,
    *,
    shuffle: bool = True,
    fraction: float | None = None,
    epoch: int = 0,
) -> int:
    """Return the rows of an epoch, every batch of which was handed out."""
    loader = Loader(snapshot, encoder, config_of(shuffle=shuffle, fraction=fraction))
    return sum(len(batch.as_torch().labels) for batch in loader.epoch(epoch))


def read_epochs(snapshot: Snapshot, encoder: Encoder, epochs: int) -> int:
    """Return the rows of as many epochs, one after the other as training reads them."""
    loader = Loader(snapshot, encoder, config_of())
    return sum(
        len(batch.as_torch().labels)
        for epoch in range(epochs)
        for batch in loader.epoch(epoch, then=epoch + 1 if epoch + 1 < epochs else None)
    )


def groups_of(snapshot: Snapshot, encoder: Encoder, fraction: float) -> list[int]:
    """Return the row groups that a sample reads."""
    loader = Loader(snapshot, encoder, config_of(fraction=fraction))
    return np.flatnonzero(loader.visits(0, loader.steps(0))).tolist()


def stored_bytes(snapshot: Snapshot, groups: Iterable[int]) -> int:
    """Return the compressed bytes of some row groups: what a read of them takes from the disk."""
    total = 0
    for group in groups:
        footer = pq.read_metadata(snapshot.location(group).path)
        chunk = footer.row_group(int(snapshot.group_ordinal_G[group]))
        total += sum(chunk.column(i).total_compressed_size for i in range(chunk.num_columns))
    return total
