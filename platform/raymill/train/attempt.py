"""A job's attempt at a run: begun anew or taken up where another job died, and closed in the run's record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from raymill import cluster, code_identity
from raymill.data import Snapshot
from raymill.errors import Conflict
from raymill.repo import Repository, Version
from raymill.runs import RunRecord, Runs
from raymill.runs.record import Owner, now
from raymill.train.checkpoint import sweep
from raymill.train.spec import TrainSpec

MAY_CHANGE = {
    "run", "runs", "workers", "resize_seconds", "cpus_per_worker", "gpu", "max_failures",
    "checkpoint", "publish",
}  # fmt: skip
"""Keys of the spec that say how a run is carried out and not what it learns."""


def begin(spec: TrainSpec, run: str, snapshots: Mapping[str, Snapshot]) -> RunRecord:
    """Return the record of this attempt, stored; what a dead attempt left half written is removed.

    Raises:
        Conflict: the run is another job's that still lives, or was begun with another spec or other data.
    """
    runs, owner = Runs(spec.runs), Owner(**cluster.this_job())
    ids = {role: snapshot.id for role, snapshot in snapshots.items()}
    before = runs.find(run)
    if before is None:
        record = RunRecord(
            run=run, model=spec.model, flavor=spec.flavor, strategy=spec.strategy, owner=owner,
            started=now(), updated=now(), spec=spec.model_dump(mode="json"), snapshots=ids,
            code=code_identity.source_hash(),
        )  # fmt: skip
        return runs.write(record)
    _check_same(spec, before, ids)
    if before.owner and before.owner != owner and cluster.is_running(before.owner.session, before.owner.job):
        raise Conflict(f"run {run!r} is being worked on by job {before.owner.job}; wait for it, or stop it")
    left = sweep(runs.root / run)
    if left:
        print(f"run {run}: removed what an earlier attempt left unfinished: {', '.join(left)}", flush=True)
    if before.status == "finished":
        return before
    return runs.write(before, status="running", owner=owner, attempts=before.attempts + 1, error=None)


def published(record: RunRecord, repository: Repository) -> Version | None:
    """Return the version that a run has become; None where it has not yet.

    Asked of the repository too: a job may die between publishing and writing it down.
    """
    if record.version is not None:
        return repository.version(record.model, record.version)
    if record.attempts == 1 or record.model not in repository.models():
        return None
    for number in reversed(repository.versions(record.model)):
        version = repository.version(record.model, number)
        if version.manifest.lineage.run == record.run:
            return version
        if version.manifest.created < record.started:
            return None
    return None


@contextmanager
def recorded(spec: TrainSpec, record: RunRecord) -> Iterator[None]:
    """Write an error that ends the block into the run's record."""
    try:
        yield
    except Exception as error:
        message = " ".join(str(error).split())[:1000]
        Runs(spec.runs).write(record, status="failed", error=f"{type(error).__name__}: {message}")
        raise


def finish(spec: TrainSpec, record: RunRecord, version: Version, epochs: list[dict[str, float]]) -> None:
    """Write down what the run has become, and its epochs where its trainer did not do so on the way."""
    runs, metrics = Runs(spec.runs), version.manifest.metrics
    history = runs.history(record.run)
    if not history.epochs and epochs:
        runs.write_history(record.run, history.model_copy(update={"epochs": epochs}))
    runs.write(record, status="finished", version=version.number, metrics=metrics)


def close(spec: TrainSpec, version: Version) -> None:
    """Finish the record of a run of this name that died after it had become `version`."""
    record = Runs(spec.runs).find(spec.run) if spec.run else None
    if record and record.status != "finished" and version.manifest.lineage.run == record.run:
        finish(spec, record, version, [])


def _check_same(spec: TrainSpec, before: RunRecord, ids: dict[str, str]) -> None:
    was = _flat(before.spec, spec.model_fields)
    is_now = _flat(spec.model_dump(mode="json"), spec.model_fields)
    differing = sorted(key for key in {*was, *is_now} if was.get(key) != is_now.get(key))
    if differing:
        changes = "; ".join(f"{key}: was {was.get(key)!r}, now {is_now.get(key)!r}" for key in differing)
        raise Conflict(
            f"run {before.run!r} was begun with another spec ({changes}); a run keeps its spec: "
            "restore it, or choose another name for `run`"
        )
    roles = {*before.snapshots, *ids}
    changed = sorted(role for role in roles if before.snapshots.get(role) != ids.get(role))
    if changed:
        raise Conflict(
            f"run {before.run!r} was begun on other {' and '.join(changed)} data: files were added, removed "
            "or rewritten since; restore them, or choose another name for `run`"
        )


def _flat(document: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run must keep, by dotted key; lanes as the number they come to."""
    kept = {key: value for key, value in document.items() if key in fields and key not in MAY_CHANGE}
    read = dict(kept.get("read", {}))
    if read.get("lanes") is None:
        workers = document.get("workers", 1)
        read["lanes"] = workers if isinstance(workers, int) else workers[1]
    return dict(_leaves({**kept, "read": read}))


def _leaves(document: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
