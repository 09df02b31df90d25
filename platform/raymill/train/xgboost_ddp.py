"""XGBoost through xgboost-ray: every actor holds its row groups, histograms are all-reduced.

xgboost-ray shards lists of files; here a data source of our own gives it row groups of the snapshot,
encoded by the encoder that serving uses, so that a dataset of one big file trains on many workers.
"""

from __future__ import annotations

import gc
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from ray.util.placement_group import remove_placement_group
from xgboost_ray import RayDMatrix, RayParams
from xgboost_ray import main as xgboost_ray_main
from xgboost_ray import train as xgboost_ray_train
from xgboost_ray.data_sources import DataSource

from raymill import cluster
from raymill.errors import RaymillError, Unavailable
from raymill.flavors.options import Best, best_round
from raymill.flavors.xgboost_flavor import XGBoostConfig, booster_of, feature_names, feature_types
from raymill.storage import locate
from raymill.train.base import Outcome, TrainJob
from raymill.train.spec import TrainSpec
from raymill.train.xgboost_failures import Ended, cause, hold
from raymill.train.xgboost_measure import Watch, heard_by
from raymill.train.xgboost_resume import newest
from raymill.train.xgboost_rows import PlannedRows

LABEL, WEIGHT = "__label__", "__weight__"
PARENT_S = 1.0


class RowGroupSource(DataSource):  # type: ignore[misc]
    """Hands row groups to xgboost-ray's actors; a shard is a row group's place in the plan."""

    supports_central_loading = False
    supports_distributed_loading = True

    @staticmethod
    def is_data_type(data: Any, filetype: Any = None) -> bool:
        return isinstance(data, PlannedRows)

    @staticmethod
    def get_n(data: PlannedRows) -> int:
        return data.groups

    @staticmethod
    def load_data(
        data: PlannedRows,
        ignore: Sequence[str] | None = None,
        indices: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> pd.DataFrame:
        """Return the encoded rows of the row groups at `indices`, with their labels and weights."""
        try:
            rows_NF, labels_N, weights_N = data.load(range(data.groups) if indices is None else indices)
        except RaymillError as error:
            hold(error)
            return _frame(
                data, np.zeros((1, len(feature_names(data.encoder))), np.float32), np.zeros(1), np.ones(1)
            )
        return _frame(data, rows_NF, labels_N, weights_N)


def _frame(
    data: PlannedRows, rows_NF: np.ndarray, labels_N: np.ndarray, weights_N: np.ndarray | None
) -> pd.DataFrame:
    frame = pd.DataFrame(rows_NF, columns=feature_names(data.encoder), copy=False)
    frame[LABEL] = labels_N
    if data.plan.weights_K is not None:
        frame[WEIGHT] = weights_N
    return frame


def fit(job: TrainJob) -> Outcome:
    """Boost on `workers` xgboost-ray actors, from where an earlier job died, and return the booster."""
    config: XGBoostConfig = job.spec.flavor_config()
    rows = PlannedRows.of(job)
    start = booster_of(job.start)
    before = start.num_boosted_rounds() if start else 0
    stored = None if job.trial else newest(locate(job.spec.runs) / job.run)
    history = list(stored.history) if stored else []
    booster = stored.booster() if stored else start
    done = booster.num_boosted_rounds() if booster else 0
    if stored:
        print(f"resumed at round {done} of {before + config.rounds}", flush=True)
    if not _is_over(job, history, before + config.rounds - done):
        booster, told = _boost_rounds(job, rows, booster, before, before + config.rounds - done)
        history += told
    trained = int(history[-1]["round"]) - before
    kept = best_round(config.early_stopping, job.encoder.task, history)
    return Outcome(
        booster[:kept] if kept else booster,
        rows_seen=rows.plan.rows * trained,
        history=history,
        visits_G=rows.visits_G(trained),
    )


def _is_over(job: TrainJob, history: list[dict[str, float]], rounds_left: int) -> bool:
    """Return whether an earlier job had boosted all there was to boost."""
    rule = job.spec.flavor_config().early_stopping
    best = Best(rule, job.encoder.task) if rule else None
    for entry in history:
        if best:
            best.take(entry)
    return rounds_left == 0 or (best is not None and best.is_over)


def _boost_rounds(
    job: TrainJob, rows: PlannedRows, start: Any, before: int, rounds: int
) -> tuple[Any, list[dict[str, float]]]:
    """Return `start` with so many more rounds, and what was measured; `before` were boosted by other runs."""
    spec, encoder = job.spec, job.encoder
    config: XGBoostConfig = spec.flavor_config()
    data = RayDMatrix(
        rows,
        label=LABEL,
        weight=None if rows.plan.weights_K is None else WEIGHT,
        feature_types=feature_types(encoder),
        enable_categorical=True,
        distributed=True,
    )
    data.loader.data_source = RowGroupSource
    warnings.filterwarnings("ignore", message=".*num_actors.*smaller than 2")  # what `workers: 1` asks for
    told: dict[str, Any] = {}
    booster = _boost(
        job,
        config.parameters(encoder, spec.seed) | {"seed_per_iteration": 1},  # as it is for several workers
        data,
        num_boost_round=rounds,
        evals=[(data, "train")],
        verbose_eval=False,
        xgb_model=start,
        additional_results=told,
        callbacks=[Watch(job, rows.plan.rows, before)],
        ray_params=RayParams(
            num_actors=min(_actors(spec), rows.groups),
            cpus_per_actor=max(1, int(spec.cpus_per_worker)),
            gpus_per_actor=1 if spec.gpu else 0,
            max_actor_restarts=spec.max_failures,
        ),
    )
    return booster, _history(told)


def _boost(job: TrainJob, *arguments: Any, **named: Any) -> Any:
    """Run xgboost-ray; where this is a trial, its measurements are reported, and may end it."""
    if job.trial is None:
        return _run(job, *arguments, **named)
    trial = job.trial
    with heard_by(lambda entry: trial.report(entry, None)):
        try:
            return _run(job, *arguments, **named)
        except SystemExit as stop:  # how Tune ends a trial; frames held by the error would hold the actors
            code = stop.code
    gc.collect()
    raise SystemExit(code)


def _run(job: TrainJob, *arguments: Any, **named: Any) -> Any:
    """Run xgboost-ray. Raises RaymillError for whatever its actors failed of."""
    try:
        with _cleared():
            return xgboost_ray_train(*arguments, **named)
    except Ended as ended:
        error = ended.error
    except TimeoutError:
        error = Unavailable(
            f"the cluster had no room for {named['ray_params'].num_actors} workers of "
            f"{named['ray_params'].cpus_per_actor} CPUs in time, others use it; submit again when they have "
            "ended, or ask for fewer workers"
        )
    except RuntimeError as failed:
        error = cause(failed, job.spec.max_failures + 1)
    gc.collect()  # as above: no frame may hold the actors
    raise error


@contextmanager
def _cleared() -> Iterator[None]:
    """Give back what xgboost-ray reserved, and end what it started, when an unforeseen error ends it.

    It tidies up itself only after what it foresaw. Its tracker, a process, would keep ours from ending, and
    the placement group its CPUs for as long as ours lives: a notebook or a test trains again.
    """
    made: list[Any] = []
    trackers: list[Any] = []
    reserve, start = xgboost_ray_main.placement_group, xgboost_ray_main._start_rabit_tracker

    def reserved(*arguments: Any, **named: Any) -> Any:
        made.append(reserve(*arguments, **named))
        return made[-1]

    def started(*arguments: Any, **named: Any) -> Any:
        tracker, variables = start(*arguments, **named)
        trackers.append(tracker)
        return tracker, variables

    accept = xgboost_ray_main._RabitTracker.accept_workers
    xgboost_ray_main.placement_group, xgboost_ray_main._start_rabit_tracker = reserved, started
    xgboost_ray_main._RabitTracker.accept_workers = _ending_with_parent(accept)
    try:
        yield
    except BaseException:
        for group in made:
            remove_placement_group(group)
        for tracker in trackers:
            tracker.terminate()
            tracker.join()
        raise
    finally:
        xgboost_ray_main.placement_group, xgboost_ray_main._start_rabit_tracker = reserve, start
        xgboost_ray_main._RabitTracker.accept_workers = accept


def _ending_with_parent(accept: Callable[[Any, int], None]) -> Callable[[Any, int], None]:
    """Return what the tracker's process runs, ended within a second when the job's own process is killed.

    It would wait for its workers for ever, with the job's output and whatever else was inherited held open.
    """

    def accept_workers(tracker: Any, workers: int) -> None:
        parent = os.getppid()

        def watch() -> None:
            while os.getppid() == parent:
                time.sleep(PARENT_S)
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
        accept(tracker, workers)

    return accept_workers


def _history(told: dict[str, Any]) -> list[dict[str, float]]:
    """Return what the first actor measured, by round; a round that was boosted again counts once."""
    entries = {entry["round"]: entry for entry in told["callback_returns"][0]}
    return [entries[key] for key in sorted(entries)]


def _actors(spec: TrainSpec) -> int:
    """Return how many actors boost: of an elastic range as many as the cluster has room for now.

    The number is then kept: an actor that is lost comes back, for its rows must be in every round.
    """
    if not spec.is_elastic:
        return spec.most_workers
    fits = cluster.room(spec.worker_resources(), cluster.nodes())
    return min(max(fits, spec.fewest_workers), spec.most_workers)
