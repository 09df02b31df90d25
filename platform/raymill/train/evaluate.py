"""Measuring a published version on any dataset: `jobs/evaluate.py`."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from raymill.config import Spec
from raymill.data import take_snapshot
from raymill.features import Column, Encoder, check_schema
from raymill.repo import Repository, fetch
from raymill.repo.manifest import ENCODER_FILE
from raymill.scratch import scratch
from raymill.train.scoring import evaluate_files, read_files


class EvaluateSpec(Spec):
    """Which version to measure, and on what."""

    model: str
    version: str | int = "stable"
    """Version number, label or "latest"."""
    data: str
    """Dataset with the model's columns and its target."""
    repository: str = "models"
    workers: int = Field(default=1, ge=1)
    """Ray tasks that share the rows out."""


def evaluate(spec: EvaluateSpec) -> dict[str, Any]:
    """Return the version's exact metrics over every row of the dataset.

    Raises:
        NotFound: no such model, version or dataset.
        DataError: a dataset that lacks a column, or holds it otherwise than training did.
        Corrupt: a damaged version.
    """
    repository = Repository(spec.repository)
    version = repository.version(spec.model, repository.resolve(spec.model, spec.version))
    snapshot = take_snapshot(spec.data)
    with scratch("evaluate") as folder:
        fetch(version, folder)
        files = read_files(folder)
    encoder = Encoder.model_validate_json(files[ENCODER_FILE])
    columns = {column.name: Column(kind=column.kind, nulls=column.nulls) for column in encoder.columns}
    check_schema(snapshot.schema, columns, encoder.target, f"dataset {snapshot.root}")
    metrics = evaluate_files(files, version.manifest.flavor, encoder, snapshot, spec.workers)
    return {
        "model": spec.model, "version": version.number, "data": snapshot.root.uri,
        "snapshot": snapshot.id, "rows": snapshot.rows, "metrics": metrics,
    }  # fmt: skip
