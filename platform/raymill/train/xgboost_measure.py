"""Exact validation metrics while xgboost-ray's actors boost: scores are gathered, and all measure as one.

XGBoost's own distributed AUC is an average of the workers' AUCs, which on shards sorted by segment is
far from the AUC of the whole. Here every actor holds a share of the validation rows, whose scores
XGBoost keeps up to date tree by tree; all shares are put together by one all-reduce.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import xgboost
from xgboost import collective
from xgboost_ray.session import get_actor_rank, put_queue

from raymill.data import Snapshot
from raymill.evaluation import evaluate
from raymill.features import Encoder
from raymill.flavors.options import Best
from raymill.flavors.xgboost_flavor import XGBoostConfig, feature_names, feature_types
from raymill.progress import INTERVAL_S
from raymill.runs import Point, RunLog, Runs
from raymill.storage import Location, locate
from raymill.train.base import TrainJob
from raymill.train.ray_metrics import RayMetrics
from raymill.train.xgboost_failures import raise_held, reported
from raymill.train.xgboost_resume import Keeper, newest
from raymill.train.xgboost_rows import PlannedRows

Entry = dict[str, float]

_listener: Callable[[Entry], None] | None = None
"""Hears the measurements of the actors that this process waits for."""


@contextmanager
def heard_by(report: Callable[[Entry], None]) -> Iterator[None]:
    """Have `report` hear what the actors measure while this block waits for them, every round once."""
    global _listener
    last = -1.0

    def hear(entry: Entry) -> None:
        nonlocal last
        if entry["round"] > last:  # actors that came back boost some rounds again
            last = entry["round"]
            report(entry)

    _listener = hear
    try:
        yield
    finally:
        _listener = None


def pass_on(entry: Entry) -> None:
    """Called by xgboost-ray, in the process that waits for the actors, with what one of them measured."""
    if _listener:
        _listener(entry)


class Watch(xgboost.callback.TrainingCallback):  # type: ignore[misc]
    """In every actor: measures and stores now and then and at the end, ends boosting early, tells."""

    def __init__(self, job: TrainJob, rows: int, before: int) -> None:
        """
        Args:
            rows: Read each round, over all actors.
            before: Rounds of the model that is continued.
        """
        super().__init__()
        config: XGBoostConfig = job.spec.flavor_config()
        encoder = job.encoder
        seldom = job.trial and not config.early_stopping  # which looks at every measurement
        self._every = job.trial.every_rounds if job.trial and seldom else config.measure_every
        self._reports = job.trial is not None
        self._config, self._rows, self._encoder = config, rows, encoder
        self._before, self._rounds = before, before + config.rounds
        self._validation = job.snapshots["validation"]
        self._names = (job.run, job.spec.model, job.spec.runs)
        self._store = (job.spec.checkpoint.every_steps or config.measure_every, job.spec.checkpoint.keep)
        self._log: RunLog | None = None
        self._keeper: Keeper | None = None
        self._best = Best(config.early_stopping, encoder.task) if config.early_stopping else None
        self._history: list[Entry] = []

    def before_training(self, model: Any) -> Any:
        reported(lambda: self._prepare(model.num_boosted_rounds()))
        return model

    def before_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        """Have XGBoost seed a round by its place in the model: it counts from where this process began."""
        boost, first = model.update, self._first

        def update(data: Any, iteration: int, objective: Any) -> None:
            del model.update  # before other callbacks, in whichever order, store the model
            boost(data, first + iteration, objective)

        model.update = update
        return False

    def _prepare(self, first: int) -> None:
        """
        Args:
            first: Rounds that the model has, of the one that is continued and of those done before.
        """
        self._first = first
        raise_held()
        rank, world = collective.get_rank(), collective.get_world_size()
        places = range(rank, np.count_nonzero(self._validation.group_rows_G), world)
        self._mine, labels_N = _load(self._validation, self._encoder, places)
        counts_W = np.zeros(world, np.int64)
        counts_W[rank] = len(labels_N)
        counts_W = _sum(counts_W)
        above = int(counts_W[:rank].sum())
        self._share, self._total = slice(above, above + len(labels_N)), int(counts_W.sum())
        self._labels_N = self._gather(labels_N)
        run, name, runs = self._names
        if first > self._before:
            self._recall(locate(runs) / run, first)
        if get_actor_rank() == 0:
            self._log = RunLog(Runs(runs), run, listeners=[RayMetrics(run, name)])
            self._keeper = None if self._reports else Keeper(locate(runs) / run, self._store[1])
        self._started = self._last = self._told = time.monotonic()

    def _recall(self, run: Location, first: int) -> None:
        """Take over what was measured up to round `first`, as the first actor finds it in storage."""
        stored = newest(run, most=first) if collective.get_rank() == 0 else None
        self._history = collective.broadcast(stored.history if stored else [], 0)
        for entry in self._history:
            if self._best:
                self._best.take(entry)

    def after_training(self, model: Any) -> Any:
        for opened in (self._log, self._keeper):
            if opened:
                opened.close()
        return model

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        return reported(lambda: self._measure(model, evals_log))

    def _measure(self, model: Any, evals_log: Any) -> bool:
        done, rounds = model.num_boosted_rounds(), self._rounds
        losses = {f"train_{name}": float(values[-1]) for name, values in evals_log["train"].items()}
        over = False
        if done % self._every == 0 or done == rounds:
            scores = model.predict(self._mine) if self._mine.num_row() else self._none()
            found = evaluate(self._encoder.task, self._gather(scores), self._labels_N)
            measured = {f"validation_{name}": value for name, value in found.items()}
            losses |= measured
            if self._best:
                self._best.take(losses)
                over = self._best.is_over
            entry = {"round": float(done)} | losses
            self._history.append(entry)
            if get_actor_rank() == 0:
                put_queue(entry)
                if self._reports:
                    put_queue(partial(pass_on, entry))
        last = over or done == rounds
        if self._log:
            self._tell(self._log, done, losses, last=last)
        if self._keeper and (last or done % self._store[0] == 0):
            self._keeper.take(model, self._history)
        return over

    def _none(self) -> np.ndarray:
        classes = self._encoder.scores_per_row
        return np.empty((0, classes) if classes > 1 else 0, np.float32)

    def _gather(self, mine_N: np.ndarray) -> np.ndarray:
        """Return the rows of all actors: each adds its own to zeros, which leaves every number as it is."""
        whole_N = np.zeros((self._total, *mine_N.shape[1:]), mine_N.dtype)
        whole_N[self._share] = mine_N
        return _sum(whole_N)

    def _tell(self, log: RunLog, done: int, losses: Entry, *, last: bool) -> None:
        """Add a round to the run's curve and, now and then, a line to the job's log."""
        now = time.monotonic()
        seconds, boosted = max(now - self._started, 1e-9), done - self._before
        pace = (done - self._first) / seconds  # rounds a second, of this process
        loss = next(value for name, value in losses.items() if name.startswith("train_"))
        log.point(
            Point(
                rows=boosted * self._rows, seconds=seconds, epoch=done, step=done, loss=loss,
                rows_per_second=self._rows / max(now - self._told, 1e-9),
                workers=collective.get_world_size(),
            ),
            self._rows,
        )  # fmt: skip
        self._told = now
        if any(name.startswith("validation_") for name in losses):
            log.epoch(boosted * self._rows, {"round": float(done)} | losses)
        if not last and now - self._last < INTERVAL_S:
            return
        self._last = now
        ending = "done" if last else f"{(self._rounds - done) / pace:.0f} s left"
        shown = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
        print(
            f"round {done}/{self._rounds}, {pace * self._rows:,.0f} rows/s, {shown}, {ending}",
            flush=True,
        )


def _sum(array: np.ndarray) -> np.ndarray:
    total: np.ndarray = collective.allreduce(array, collective.Op.SUM)  # comes back flat
    return total.reshape(array.shape)


def _load(snapshot: Snapshot, encoder: Encoder, places: Sequence[int]) -> tuple[xgboost.DMatrix, np.ndarray]:
    """Return the encoded rows of some row groups and their labels."""
    rows_NF, labels_N, _ = PlannedRows.all(snapshot, encoder).load(places)
    data = xgboost.DMatrix(
        rows_NF,
        feature_names=feature_names(encoder),
        feature_types=feature_types(encoder),
        enable_categorical=True,
    )
    return data, labels_N
