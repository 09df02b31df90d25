"""A study from spec to best model: search, then the best trained on all data, evaluated and published."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

from raymill import cluster, code_identity
from raymill.errors import DataError, NotFound, needs_extra
from raymill.repo import Repository, Version
from raymill.search.header import Budget, KnownPoint, Objective, StudyHeader
from raymill.search.record import Record, Trial
from raymill.search.report import best_document, write_report
from raymill.search.schedulers import make_scheduler
from raymill.search.study import Study
from raymill.search.watch import Watch
from raymill.storage import Location, locate
from raymill.train.run import check, make_job, train
from raymill.tune.plan import Plan, concurrency, make_plan, trial_bundles
from raymill.tune.spec import TuneSpec
from raymill.tune.trial import TrialBase, run_trial, train_spec

NO_REPORTS = 1 << 30  # rounds between measurements where no scheduler looks at them


def tune(spec: TuneSpec) -> dict[str, Any]:
    """Run or go on with a study on the connected Ray cluster; return what it found and published.

    Raises:
        RaymillError: before any trial starts, for whatever can be known by then.
        DataError: no trial succeeded.
    """
    with needs_extra("search"):
        import matplotlib  # noqa: F401  the report at the end draws with it
    plan = make_plan(spec)
    snapshots = check(plan.base)
    folder = locate(spec.studies) / spec.study
    header = _header(spec, plan, folder, {role: snapshot.id for role, snapshot in snapshots.items()})
    study = Study.open_or_create(folder, header)
    before = len([trial for trial in study.record.trials if trial.ended])
    if before:
        print(f"study {spec.study}: {before} trials have ended before; going on", flush=True)
    if study.pending() or not study.is_finished():
        runs = f"{spec.study}-{header.meta['id']}-trial-"
        base = TrialBase(runs, plan.trials, make_job(plan.base, snapshots), _every_rounds(spec))
        _search(spec, plan, study, base, folder)
        _clear(plan.base.runs, runs)
    study.close()
    pages = [file.uri for file in write_report(spec.study, study.record, folder / "report")]
    best = _best(spec.study, study.record)
    summary = {
        "study": spec.study, "trials": study.record.counts(), "report": pages[0],
        "best": {"trial": best.number, "params": best.params, "metrics": best.metrics},
    }  # fmt: skip
    return summary | (_retrain(spec, study.record, best) if spec.retrain else {})


def _search(spec: TuneSpec, plan: Plan, study: Study, base: TrialBase, folder: Location) -> None:
    from raymill.search.tune import Placement, run_study

    watch = Watch(spec.study, study.record)
    wanted = spec.search.scheduler
    scheduler = None
    if wanted:
        objective, space = study.header.objectives[0], study.header.space
        scheduler = make_scheduler(wanted.name, wanted.options, plan.progress, objective, space)
    local = plan.base.strategy == "local"
    run_study(
        study,
        run_trial,
        base,
        Placement(bundles=trial_bundles(plan.base), retries=spec.search.retries, reuse=local),
        storage=folder / "tune",
        scheduler=scheduler,
        progress=plan.progress,
        tick=watch.tick,
    )
    watch.close()


def _header(spec: TuneSpec, plan: Plan, folder: Location, snapshots: dict[str, str]) -> StudyHeader:
    """Return the study's header; what a study that lies there took from its cluster is kept."""
    there = _there(folder)
    at_once = concurrency(spec, plan.base, cluster.ceiling())
    if there and spec.search.concurrency is None:
        at_once = there.concurrency
    known = there.known if there else _known(spec)
    return StudyHeader(
        space=spec.space,
        stages=plan.stages,
        objectives=tuple(Objective(metric=metric, mode=mode) for metric, mode in spec.objective.items()),
        seed=spec.search.seed,
        concurrency=at_once,
        order=spec.search.order,
        slack=at_once // 2 if spec.search.slack is None else spec.search.slack,
        budget=Budget(seconds=spec.search.seconds),
        known=tuple(known),
        meta={
            "id": there.meta["id"] if there else uuid.uuid4().hex[:8],
            "identity": {"snapshots": snapshots, "training": _digest(plan.trials)},
            "train": plan.best,
            "code": code_identity.source_hash(),
        },
    )


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:12]


def _clear(runs: str, prefix: str) -> None:
    """Remove the checkpoints of the trials' runs, which a killed study would have gone on from."""
    for run in locate(runs).children():
        if run.name.startswith(prefix):
            run.remove()


def _there(folder: Location) -> StudyHeader | None:
    try:
        return Study.read(folder).header
    except NotFound:
        return None


def _known(spec: TuneSpec) -> list[KnownPoint]:
    """Return the observations of the earlier studies that lie in the space; says how many do not."""
    found = []
    for name in spec.search.from_studies:
        points, outside = Study.read(locate(spec.studies) / name).known(spec.space)
        print(f"study {name}: {len(points)} trials to start from, {outside} outside of the space", flush=True)
        found += points
    return found


def _best(name: str, record: Record) -> Trial:
    best = record.best()
    if best is None:
        errors = [trial.error for trial in record.trials if trial.error]
        raise DataError(
            f"none of the {len(record.trials)} trials of study {name!r} succeeded; the first failed with: "
            f"{errors[0] if errors else 'nothing'}"
        )
    return best


def _retrain(spec: TuneSpec, record: Record, best: Trial) -> dict[str, Any]:
    """Train with the best parameters on all the training data and publish; once, however often submitted."""
    document = best_document(spec.study, record, best)
    wanted = train_spec(document, {}, "best")
    version = _published(wanted.publish.repository, wanted.model, document["study"])
    if version is None:
        print(f"training with the parameters of trial {best.number} on all the training data", flush=True)
        summary = train(wanted).summary()
        return {"published": {name: value for name, value in summary.items() if name != "history"}}
    print(f"{wanted.model} version {version.number} was trained from this trial before", flush=True)
    return {
        "published": {
            "model": wanted.model, "version": version.number, "metrics": version.manifest.metrics,
            "path": version.location.uri, "published": False,
        }
    }  # fmt: skip


def _published(root: str, model: str, study: str) -> Version | None:
    repository = Repository(root)
    if model not in repository.models():
        return None
    for number in reversed(repository.versions(model)):
        version = repository.version(model, number)
        if version.manifest.lineage.study == study:
            return version
    return None


def _every_rounds(spec: TuneSpec) -> int:
    return spec.search.scheduler.every_rounds if spec.search.scheduler else NO_REPORTS
