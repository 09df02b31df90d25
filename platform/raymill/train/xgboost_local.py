"""XGBoost in this process. The encoded rows are kept, so that the next trial on them only boosts."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import xgboost

from raymill.data import Loader, LoaderConfig, Snapshot
from raymill.errors import Unsupported
from raymill.evaluation import evaluate
from raymill.features import Encoder
from raymill.flavors.options import Best, best_round
from raymill.flavors.xgboost_flavor import MODEL_FILE, XGBoostConfig, feature_names, feature_types, matrix
from raymill.progress import Progress
from raymill.train.base import Outcome, TrainJob

READ_ROWS = 65_536
DATASETS_KEPT = 2


def fit(job: TrainJob) -> Outcome:
    """Boost over all rows and return the booster.

    Raises:
        Unsupported: a read order that leaves rows out.
    """
    spec, snapshot = job.spec, job.snapshots["train"]
    if spec.read.order != "full":
        raise Unsupported(
            f"flavor xgboost reads all rows every round, read order {spec.read.order!r} would not be kept; "
            "use order full, or a torch flavor"
        )
    config: XGBoostConfig = spec.flavor_config()
    train, validation = _matrices(snapshot, job.snapshots["validation"], job.encoder)
    start = _start(job)
    done = start.num_boosted_rounds() if start else 0
    watch = _Watch(job, config.rounds, validation)
    booster = xgboost.train(
        config.parameters(job.encoder, spec.seed)
        | {"nthread": max(1, int(spec.cpus_per_worker)), "disable_default_eval_metric": 1},
        train,
        num_boost_round=max(0, config.rounds - done),
        xgb_model=start,
        evals=[(validation, "validation")],  # which has XGBoost keep its scores up to date
        verbose_eval=False,
        callbacks=[watch],
    )
    rounds = booster.num_boosted_rounds()
    kept = best_round(config.early_stopping, job.encoder.task, watch.history)
    return Outcome(
        booster[:kept] if kept else booster,
        rows_seen=snapshot.rows * rounds,
        history=watch.history,
        visits_G=snapshot.group_rows_G * rounds,
    )


def _start(job: TrainJob) -> xgboost.Booster | None:
    """Return the booster that a trial goes on from."""
    if job.trial is None or job.trial.resume is None:
        return None
    return xgboost.Booster(model_file=job.trial.resume / MODEL_FILE)


def _matrices(
    train: Snapshot, validation: Snapshot, encoder: Encoder
) -> tuple[xgboost.DMatrix, xgboost.DMatrix]:
    """Return both datasets, encoded; from memory where this process encoded the same before."""
    return _kept(_Key(train, encoder)), _kept(_Key(validation, encoder))


class _Key:
    """A dataset and how it is encoded; equal where both are, by their ids."""

    def __init__(self, snapshot: Snapshot, encoder: Encoder) -> None:
        self.snapshot, self.encoder = snapshot, encoder
        self._identity = (snapshot.id, repr(snapshot.predicate), encoder.model_dump_json())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)


@functools.lru_cache(maxsize=DATASETS_KEPT)
def _kept(key: _Key) -> xgboost.DMatrix:
    config = LoaderConfig(batch_rows=READ_ROWS, lanes=1, window=1, shuffle=False)
    batches = [
        (matrix(batch.features), batch.labels_N)
        for batch in Loader(key.snapshot, key.encoder, config).epoch(0)
    ]
    return xgboost.DMatrix(
        np.concatenate([rows for rows, _ in batches]),
        np.concatenate([labels_N for _, labels_N in batches]),
        feature_names=feature_names(key.encoder),
        feature_types=feature_types(key.encoder),
        enable_categorical=True,
    )


class _Watch(xgboost.callback.TrainingCallback):  # type: ignore[misc]
    """Measures the validation set exactly, now and then and at the end, and reports it."""

    def __init__(self, job: TrainJob, rounds: int, validation: xgboost.DMatrix) -> None:
        super().__init__()
        self._job, self._rounds, self._validation = job, rounds, validation
        self._labels_N = validation.get_label()
        self._progress = None if job.trial else Progress("boosting", rounds, "rounds")
        config: XGBoostConfig = job.spec.flavor_config()
        seldom = job.trial and not config.early_stopping  # which looks at every measurement
        self._every = job.trial.every_rounds if job.trial and seldom else config.measure_every
        self._best = Best(config.early_stopping, job.encoder.task) if config.early_stopping else None
        self.history: list[dict[str, float]] = []

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        done, trial = model.num_boosted_rounds(), self._job.trial
        if self._progress:
            self._progress.advance(1)
        if done != self._rounds and done % self._every:
            return False
        found = evaluate(self._job.encoder.task, model.predict(self._validation), self._labels_N)
        entry = {"round": float(done)} | {f"validation_{name}": value for name, value in found.items()}
        self.history.append(entry)
        if trial:
            trial.report(entry, lambda directory: model.save_model(directory / MODEL_FILE))
        if self._best:
            self._best.take(entry)
        over = self._best is not None and self._best.is_over
        if self._progress and (over or done == self._rounds):
            self._progress.finish(**{name: value for name, value in entry.items() if name != "round"})
        return over
