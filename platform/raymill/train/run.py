"""One training run from spec to published version. Everything that can be refused is refused first."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raymill import cluster, code_identity
from raymill.data import Snapshot, take_snapshot
from raymill.data.decode import RowGroupReader
from raymill.features import Encoder, check_schema
from raymill.fitting import FeaturePlan
from raymill.flavors import FLAVORS, Flavor
from raymill.repo import Lineage, Manifest, Repository, Version
from raymill.repo.manifest import ENCODER_FILE, GOLDEN_FILE, Code, Golden
from raymill.repo.version import check_golden
from raymill.storage import locate
from raymill.train import STRATEGIES
from raymill.train.base import Outcome, TrainJob
from raymill.train.encoding import fit_encoder
from raymill.train.scoring import evaluate_files, read_files
from raymill.train.spec import TrainSpec

GOLDEN_ROWS = 16


@dataclass(frozen=True)
class TrainResult:
    """What a run ends with."""

    version: Version
    run: str
    train_rows: int
    rows_seen: int
    history: list[dict[str, float]]

    def summary(self) -> dict[str, Any]:
        """Return the job's closing JSON line."""
        manifest = self.version.manifest
        return {
            "model": manifest.model, "version": self.version.number, "flavor": manifest.flavor,
            "run": self.run, "train_rows": self.train_rows, "rows_seen": self.rows_seen,
            "metrics": manifest.metrics, "path": self.version.location.uri, "history": self.history,
        }  # fmt: skip


def train(spec: TrainSpec) -> TrainResult:
    """Run `spec` on the connected Ray cluster and return the published version.

    Raises:
        RaymillError: before any worker starts, for whatever can be known by then: datasets, columns,
            target, repository, resources.
    """
    repository = Repository(spec.publish.repository)
    repository.root.check_writable()
    locate(spec.runs).check_writable()
    cluster.check_capacity(spec.workers, spec.worker_resources(), cluster.ceiling())
    snapshots = {role: take_snapshot(path) for role, path in spec.data.roles().items()}
    for role, snapshot in snapshots.items():
        check_schema(snapshot.schema, spec.data.features, spec.data.target, f"{role} data {snapshot.root}")
        print(
            f"{role}: {snapshot.rows:,} rows in {snapshot.groups} row groups, snapshot {snapshot.id}",
            flush=True,
        )
    plan = FeaturePlan(spec.data.features, spec.data.target, spec.task, snapshots["train"].schema)
    encoder = fit_encoder(plan, snapshots["train"])
    flavor = FLAVORS.load(spec.flavor)()
    job = TrainJob(spec, spec.run or _new_run(spec), flavor, encoder, snapshots)
    outcome = STRATEGIES.load(spec.strategy)().fit(job)
    version = _publish(job, outcome, repository)
    return TrainResult(version, job.run, snapshots["train"].rows, outcome.rows_seen, outcome.history)


def _publish(job: TrainJob, outcome: Outcome, repository: Repository) -> Version:
    with tempfile.TemporaryDirectory(prefix="raymill-publish-") as folder:
        staged = Path(folder)
        job.flavor.save(outcome.model, staged)
        model_files = read_files(staged)
        (staged / ENCODER_FILE).write_text(job.encoder.model_dump_json(indent=1), encoding="utf-8")
        _write_golden(staged, job)
        metrics = {
            role: evaluate_files(model_files, job.spec.flavor, job.encoder, snapshot, job.spec.workers)
            for role, snapshot in job.snapshots.items()
            if role != "train"
        }
        version = repository.publish(
            job.spec.model,
            staged,
            _manifest(job, metrics),
            lambda path: _prove(path, job.flavor, job.encoder),
        )
    print(f"published {job.spec.model} version {version.number} at {version.location}", flush=True)
    if job.spec.publish.label:
        event = repository.label(job.spec.model, job.spec.publish.label, version.number)
        print(f"label {event.label} -> version {event.version}", flush=True)
    return version


def _prove(staged: Path, flavor: Flavor, encoder: Encoder) -> None:
    """Load what is about to be published and hold it to its golden rows."""
    check_golden(staged, encoder, flavor.load(staged, encoder))


def _write_golden(staged: Path, job: TrainJob) -> None:
    """Store validation rows with their predictions, made on the path that training and batch use."""
    rows = first_rows(job.snapshots["validation"], job.encoder.names, GOLDEN_ROWS)
    predictor = job.flavor.load(staged, job.encoder)
    scores = np.asarray(predictor.predict(job.encoder.encode_table(rows)), np.float32)
    golden = Golden(inputs=rows.to_pydict(), scores=scores.tolist(), tolerance=job.flavor.tolerance)
    (staged / GOLDEN_FILE).write_text(golden.model_dump_json(), encoding="utf-8")


def first_rows(snapshot: Snapshot, columns: list[str], count: int) -> pa.Table:
    """Return the first `count` rows of a snapshot, dictionaries decoded; fewer where there are fewer."""
    reader = RowGroupReader(snapshot, columns)
    first = int(np.flatnonzero(snapshot.group_rows_G)[0])
    table = reader.table(first, 0, min(count, int(snapshot.group_rows_G[first])))
    plain = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(plain)).select(columns)


def _manifest(job: TrainJob, metrics: Mapping[str, dict[str, float]]) -> Manifest:
    spec = job.spec
    lineage = Lineage(
        run=job.run,
        snapshots={role: snapshot.id for role, snapshot in job.snapshots.items()},
        data={role: snapshot.root.uri for role, snapshot in job.snapshots.items()},
        spec=spec.model_dump(mode="json"),
        seed=spec.seed,
        code=Code(sha256=code_identity.source_hash(), commit=code_identity.commit()),
        packages=code_identity.package_versions(job.flavor.packages),
    )
    return Manifest(
        model=spec.model, flavor=spec.flavor, task=spec.task,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        signature=job.encoder.signature(), metrics=dict(metrics), lineage=lineage, files=(),
    )  # fmt: skip


def _new_run(spec: TrainSpec) -> str:
    return f"{spec.model}-{spec.flavor}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}"
