"""XGBoost in this process. The encoded rows are kept, so that the next trial on them only boosts."""

from __future__ import annotations

import functools
import time
from typing import Any

import xgboost

from raymill.evaluation import evaluate
from raymill.flavors.options import Best, best_round
from raymill.flavors.xgboost_flavor import MODEL_FILE, XGBoostConfig, booster_of, feature_names, feature_types
from raymill.progress import Progress
from raymill.runs import Point, RunLog
from raymill.train.base import Outcome, TrainJob
from raymill.train.local_loop import open_log
from raymill.train.xgboost_rows import PlannedRows

DATASETS_KEPT = 2


def fit(job: TrainJob) -> Outcome:
    """Boost over the rows of the read order's first epoch and return the booster."""
    spec, rows = job.spec, PlannedRows.of(job)
    config: XGBoostConfig = spec.flavor_config()
    train = _kept(_Key(rows, (spec.read.model_dump_json(), spec.seed)))
    validation = _kept(_Key(PlannedRows.all(job.snapshots["validation"], job.encoder)))
    base = booster_of(job.start)
    before = base.num_boosted_rounds() if base else 0
    start = _start(job) or base
    done = start.num_boosted_rounds() if start else 0
    parameters = config.parameters(job.encoder, spec.seed) | {"nthread": max(1, int(spec.cpus_per_worker))}
    evals = [(validation, "validation")]  # which has XGBoost keep its scores up to date
    log = open_log(job)
    if log is None:
        parameters |= {"disable_default_eval_metric": 1}
    else:
        evals.append((train, "train"))
    watch = _Watch(job, before + config.rounds, before, rows.plan.rows, validation, log)
    try:
        booster = xgboost.train(
            parameters,
            train,
            num_boost_round=max(0, before + config.rounds - done),
            xgb_model=start,
            evals=evals,
            verbose_eval=False,
            callbacks=[watch],
        )
    finally:
        if log:
            log.close()
    rounds = booster.num_boosted_rounds() - before
    kept = best_round(config.early_stopping, job.encoder.task, watch.history)
    return Outcome(
        booster[:kept] if kept else booster,
        rows_seen=rows.plan.rows * rounds,
        history=watch.history,
        visits_G=rows.visits_G(rounds),
    )


def _start(job: TrainJob) -> xgboost.Booster | None:
    """Return the booster that a trial goes on from."""
    if job.trial is None or job.trial.resume is None:
        return None
    return xgboost.Booster(model_file=job.trial.resume / MODEL_FILE)


class _Key:
    """Some rows and how they are encoded; equal where both are, by their ids."""

    def __init__(self, rows: PlannedRows, order: object = None) -> None:
        self.rows = rows
        snapshot = rows.snapshot
        encoder = rows.encoder.model_dump_json()
        self._identity = (snapshot.id, repr(snapshot.predicate), encoder, order, rows.plan.rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)


@functools.lru_cache(maxsize=DATASETS_KEPT)
def _kept(key: _Key) -> xgboost.DMatrix:
    """Return the rows, encoded; from memory where this process encoded the same before."""
    rows_NF, labels_N, weights_N = key.rows.load(range(key.rows.groups))
    return xgboost.DMatrix(
        rows_NF,
        labels_N,
        weight=weights_N,
        feature_names=feature_names(key.rows.encoder),
        feature_types=feature_types(key.rows.encoder),
        enable_categorical=True,
    )


class _Watch(xgboost.callback.TrainingCallback):  # type: ignore[misc]
    """Measures the validation set exactly, now and then and at the end; tells a study, or the run's log."""

    def __init__(
        self,
        job: TrainJob,
        rounds: int,
        before: int,
        rows: int,
        validation: xgboost.DMatrix,
        log: RunLog | None,
    ) -> None:
        """
        Args:
            before: Rounds of the model that is continued, of `rounds` in all.
            rows: Read each round.
        """
        super().__init__()
        self._job, self._rounds, self._validation = job, rounds, validation
        self._before, self._rows, self._log = before, rows, log
        self._labels_N = validation.get_label()
        self._progress = None if job.trial else Progress("boosting", rounds * rows, done=before * rows)
        config: XGBoostConfig = job.spec.flavor_config()
        seldom = job.trial and not config.early_stopping  # which looks at every measurement
        self._every = job.trial.every_rounds if job.trial and seldom else config.measure_every
        self._best = Best(config.early_stopping, job.encoder.task) if config.early_stopping else None
        self._started = self._told = time.monotonic()
        self.history: list[dict[str, float]] = []

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        done, trial = model.num_boosted_rounds(), self._job.trial
        losses = {f"train_{name}": float(values[-1]) for name, values in evals_log.get("train", {}).items()}
        if self._log:
            self._tell(self._log, done, losses)
        if done != self._rounds and done % self._every:
            return False
        found = evaluate(self._job.encoder.task, model.predict(self._validation), self._labels_N)
        entry = {"round": float(done)} | losses
        entry |= {f"validation_{name}": value for name, value in found.items()}
        self.history.append(entry)
        if trial:
            trial.report(entry, lambda directory: model.save_model(directory / MODEL_FILE))
        if self._log:
            self._log.epoch((done - self._before) * self._rows, entry)
        if self._best:
            self._best.take(entry)
        over = self._best is not None and self._best.is_over
        if self._progress and (over or done == self._rounds):
            self._progress.finish(**{name: value for name, value in entry.items() if name != "round"})
        return over

    def _tell(self, log: RunLog, done: int, losses: dict[str, float]) -> None:
        """Add a round to the run's curve, and now and then a line to the job's log."""
        now, loss = time.monotonic(), next(iter(losses.values()))
        log.point(
            Point(
                rows=(done - self._before) * self._rows, seconds=now - self._started, epoch=done, step=done,
                loss=loss, rows_per_second=self._rows / max(now - self._told, 1e-9), workers=1,
            ),
            self._rows,
        )  # fmt: skip
        self._told = now
        if self._progress:
            self._progress.advance(self._rows, loss=loss)
