"""One training run from spec to published version. Everything that can be refused is refused first."""

from __future__ import annotations

import json
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
from raymill.encode_arrow import plain_values
from raymill.features import Encoder, check_schema
from raymill.fitting import FeaturePlan
from raymill.flavors import FLAVORS, Flavor
from raymill.repo import Lineage, Manifest, Repository, Version
from raymill.repo.manifest import ENCODER_FILE, GOLDEN_FILE, LEDGER_FILE, Code, Golden
from raymill.repo.version import check_golden
from raymill.runs import RunRecord, Runs
from raymill.scratch import scratch
from raymill.storage import locate
from raymill.train import STRATEGIES, attempt, incremental
from raymill.train.base import Outcome, TrainJob
from raymill.train.encoding import fit_encoder
from raymill.train.labels import check_early_stopping
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
    published: bool = True
    """False where nothing was new: the version is then the one that was there before."""

    def summary(self) -> dict[str, Any]:
        """Return the job's closing JSON line."""
        manifest = self.version.manifest
        return {
            "model": manifest.model, "version": self.version.number, "flavor": manifest.flavor,
            "run": self.run, "train_rows": self.train_rows, "rows_seen": self.rows_seen,
            "published": self.published, "metrics": manifest.metrics, "path": self.version.location.uri,
            "history": self.history,
        }  # fmt: skip


def train(spec: TrainSpec) -> TrainResult:
    """Run `spec` on the connected Ray cluster and return the published version.

    Raises:
        RaymillError: before any worker starts, for whatever can be known by then: datasets, columns,
            target, repository, resources.
    """
    repository = Repository(spec.publish.repository)
    snapshots = check(spec)
    base = None
    if spec.read.order == incremental.INCREMENTAL:
        base = incremental.find_base(spec, repository)
        snapshots["train"] = incremental.mark(spec, snapshots["train"], base)
        if base and incremental.is_nothing_new(snapshots["train"]):
            print(f"nothing new to learn: {spec.model} stays at version {base.version.number}", flush=True)
            attempt.close(spec, base.version)
            return TrainResult(base.version, base.version.manifest.lineage.run, 0, 0, [], published=False)
    run = spec.run or _new_run(spec)
    record = attempt.begin(spec, run, snapshots)
    done = attempt.published(record, repository)
    if done:
        return _already(spec, record, repository, done, snapshots["train"].rows)
    with attempt.recorded(spec, record):
        job = make_job(spec, snapshots, base, run)
        outcome = STRATEGIES.load(spec.strategy)().fit(job)
        version = _publish(job, outcome, repository)
        _label(spec, repository, version)
    attempt.finish(spec, record, version, outcome.history)
    return TrainResult(version, run, snapshots["train"].rows, outcome.rows_seen, outcome.history)


def _already(
    spec: TrainSpec, record: RunRecord, repository: Repository, version: Version, rows: int
) -> TrainResult:
    """Return the result of a run that an earlier attempt has published; submitting twice does no harm."""
    if record.status != "finished":
        _label(spec, repository, version)
        attempt.finish(spec, record, version, [])
    print(f"run {record.run} is finished: it became version {version.number}", flush=True)
    history = Runs(spec.runs).history(record.run)
    seen = int(sum(entry["rows"] for entry in history.epochs))
    return TrainResult(version, record.run, rows, seen, history.epochs)


def check(spec: TrainSpec) -> dict[str, Snapshot]:
    """Return the spec's datasets by role, having refused what can be refused before any work.

    Raises:
        RaymillError: datasets, columns, target, repository or resources that cannot be had.
    """
    Repository(spec.publish.repository).root.check_writable()
    locate(spec.runs).check_writable()
    _check_workers(spec)
    FLAVORS.load(spec.flavor)().check(spec.flavor_config())
    snapshots = {role: take_snapshot(path) for role, path in spec.data.roles().items()}
    for role, snapshot in snapshots.items():
        check_schema(snapshot.schema, spec.data.features, spec.data.target, f"{role} data {snapshot.root}")
        print(
            f"{role}: {snapshot.rows:,} rows in {snapshot.groups} row groups, snapshot {snapshot.id}",
            flush=True,
        )
    check_early_stopping(spec, snapshots["validation"])
    return snapshots | {"train": incremental.readable(spec, snapshots["train"])}


def _check_workers(spec: TrainSpec) -> None:
    each, fewest = spec.worker_resources(), spec.fewest_workers
    cluster.check_capacity(fewest, each, cluster.ceiling())
    if not cluster.may_grow():
        cluster.check_room(fewest, each, cluster.nodes())


def make_job(
    spec: TrainSpec,
    snapshots: dict[str, Snapshot],
    base: incremental.Base | None = None,
    run: str | None = None,
) -> TrainJob:
    """Return the run, continuing from `base` with its encoder and weights if there is one."""
    flavor, run = FLAVORS.load(spec.flavor)(), run or spec.run or _new_run(spec)
    if base:
        return TrainJob(spec, run, flavor, base.encoder, snapshots, base.ledger, base.weights)
    plan = FeaturePlan(spec.data.features, spec.data.target, spec.task, snapshots["train"].schema)
    encoder = fit_encoder(plan, snapshots["train"])
    flavor.probe(spec.flavor_config(), encoder)
    return TrainJob(spec, run, flavor, encoder, snapshots)


def _publish(job: TrainJob, outcome: Outcome, repository: Repository) -> Version:
    with scratch("publish") as folder:
        staged = folder
        job.flavor.save(outcome.model, staged)
        model_files = read_files(staged)
        (staged / ENCODER_FILE).write_text(job.encoder.model_dump_json(indent=1), encoding="utf-8")
        _write_golden(staged, job)
        job.flavor.prepare_serving(outcome.model, staged, lambda: _prove(staged, job.flavor, job.encoder))
        if outcome.visits_G is not None:
            ledger = job.ledger.record(job.snapshots["train"], outcome.visits_G)
            (staged / LEDGER_FILE).write_text(json.dumps(ledger.to_json()), encoding="utf-8")
        metrics = {
            role: evaluate_files(model_files, job.spec.flavor, job.encoder, snapshot, job.spec.fewest_workers)
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
    return version


def _label(spec: TrainSpec, repository: Repository, version: Version) -> None:
    """Point the spec's label at the version; where it once did, whoever moved it since is right."""
    label = spec.publish.label
    if label is None:
        return
    known = label in repository.labels(spec.model)
    if known and any(event.version == version.number for event in repository.history(spec.model, label)):
        return
    event = repository.label(spec.model, label, version.number)
    print(f"label {event.label} -> version {event.version}", flush=True)


def _prove(staged: Path, flavor: Flavor, encoder: Encoder) -> None:
    """Load what is about to be published and hold it to its golden rows. Raises Corrupt."""
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
    return pa.table({name: plain_values(table.column(name)) for name in columns})


def _manifest(job: TrainJob, metrics: Mapping[str, dict[str, float]]) -> Manifest:
    spec = job.spec
    lineage = Lineage(
        run=job.run,
        snapshots={role: snapshot.id for role, snapshot in job.snapshots.items()},
        data={role: snapshot.root.uri for role, snapshot in job.snapshots.items()},
        spec=spec.model_dump(mode="json"),
        study=spec.study,
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
    flavor = spec.flavor.rpartition(":")[2]
    return f"{spec.model}-{flavor}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}"
