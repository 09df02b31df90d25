"""Predictions of a saved model over a whole dataset, in Ray tasks, and metrics over all of it at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from raymill.data import Loader, LoaderConfig, Snapshot
from raymill.evaluation import evaluate
from raymill.features import Encoder
from raymill.flavors import FLAVORS
from raymill.scratch import scratch

BATCH_ROWS = 32_768


def evaluate_files(
    files: dict[str, bytes], flavor: str, encoder: Encoder, snapshot: Snapshot, tasks: int
) -> dict[str, float]:
    """Return the exact metrics of the model in `files` over every row of `snapshot`.

    The rows are shared out to `tasks` Ray tasks; scores and labels come back and are measured as
    one. The model is loaded from its saved files, so it is the published model that is measured.
    """
    import ray

    tasks = min(tasks, snapshot.groups)
    score = ray.remote(num_cpus=1)(score_share)
    shared = ray.put(files)
    parts = ray.get([score.remote(shared, flavor, encoder, snapshot, rank, tasks) for rank in range(tasks)])
    return evaluate(
        encoder.task,
        np.concatenate([scores for scores, _ in parts]),
        np.concatenate([labels for _, labels in parts]),
    )


def read_files(folder: Path) -> dict[str, bytes]:
    """Return every file below `folder`, by its relative path."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }


def score_share(
    files: dict[str, bytes], flavor: str, encoder: Encoder, snapshot: Snapshot, rank: int, world_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and labels of one of `world_size` shares of the rows."""
    config = LoaderConfig(
        batch_rows=BATCH_ROWS // world_size * world_size, lanes=world_size, window=1, shuffle=False
    )
    with scratch("score") as directory:
        for name, data in files.items():
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        predictor = FLAVORS.load(flavor)().load(directory, encoder)
        batches = Loader(snapshot, encoder, config, rank=rank, world_size=world_size).epoch(0)
        parts = [(predictor.predict(batch.features), batch.labels_N) for batch in batches if len(batch)]
    return np.concatenate([scores for scores, _ in parts]), np.concatenate([labels for _, labels in parts])
