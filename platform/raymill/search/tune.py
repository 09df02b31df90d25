"""A study on Ray Tune: any searcher of ours, Tune's schedulers, resources and concurrency.

Tune runs the trials and the study remembers them. Tune's own experiment state is never restored: a
driver that was killed opens the study again, and what was asked but not told runs once more under its
own number. The order in which results count is the study's, so the suggestions do not depend on which
trial happens to end first.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.result import AUTO_RESULT_KEYS, DONE, TIME_TOTAL_S, TRAINING_ITERATION
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import SearchAlgorithm, Searcher, SearchGenerator

from raymill.scratch import scratch
from raymill.search.record import Status, Trial
from raymill.search.schedulers import SECONDS, Progress, needs_checkpoints, remind
from raymill.search.study import Study
from raymill.storage import Location

Write = Callable[[Path], None]
"""Writes the state of a trial into a directory."""

FAILED, FINAL = "failed", "final"
CONFIG = "config/params/"  # under which Tune's results have the parameters, as PBT left them
_NOT_METRICS = {*AUTO_RESULT_KEYS, "trial_id", DONE, SECONDS, FINAL, FAILED}


@dataclass(frozen=True)
class Running:
    """A trial while it runs, as its objective sees it."""

    number: int
    params: dict[str, Any]
    report: Callable[[Mapping[str, float], Write | None], None]
    """Tells of metrics on the way, and how to save the state they were measured at. It may not return: a
    scheduler that stops the trial ends its thread here."""
    resume: Path | None
    """Where a saved state lies that the trial goes on from; gone when the objective returns."""


Objective = Callable[[Any, Running], Mapping[str, float]]
"""`objective(shared, running)` runs a trial and returns its metrics; what it raises fails the trial."""

SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0: no tables of Tune's between ours
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # CSV, JSON and TensorBoard files: the study has it all
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial reports no metric
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's own state is never read
}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where and how trials run."""

    bundles: Sequence[Mapping[str, float]]
    """Resources set aside for a trial: of its own process first, and of what must be placed beside it."""
    retries: int = 2
    """Times a trial is run again whose process died; one that raises fails at once."""
    reuse: bool = True
    """Keep a trial's process for the next trial, with what it has loaded."""


def run_study(
    study: Study,
    objective: Objective,
    shared: Any,
    placement: Placement,
    *,
    storage: Location,
    scheduler: Any = None,
    progress: Progress | None = None,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Run the trials that the study still asks for; returns when all have ended.

    Args:
        shared: Handed to every trial; put into the object store once.
        storage: Where Tune keeps checkpoints and its own state.
        scheduler: One of Tune's by `make_scheduler`, or None; it decides which trials stop early.
        progress: What that scheduler compares trials at.
        tick: Called some times a second while trials run.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(study.header.concurrency)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it warns of the files that we do not want
    storage.make_directory()
    if scheduler is not None:
        random.seed(study.header.seed)  # which Tune's schedulers draw from
        remind(scheduler, [trial for trial in study.record.trials if trial.ended])
    scheduler = scheduler or FIFOScheduler()
    if placement.reuse:
        _keep_processes(scheduler, study.header.concurrency)
    trainable = _trainable(objective, ray.put(shared), progress, checkpoints=needs_checkpoints(scheduler))
    tune.run(
        trainable,
        resources_per_trial=tune.PlacementGroupFactory([dict(bundle) for bundle in placement.bundles]),
        search_alg=StudySearch(StudySearcher(study, progress)),
        scheduler=scheduler,
        num_samples=-1,
        max_failures=placement.retries,
        reuse_actors=placement.reuse,
        name=time.strftime("attempt-%Y%m%d-%H%M%S", time.gmtime()),
        storage_path=storage.path,
        storage_filesystem=storage.filesystem,
        callbacks=[_Ticker(tick)],
        trial_name_creator=_name,
        trial_dirname_creator=_name,
        raise_on_failed_trial=False,
        verbose=0,
    )


def _keep_processes(scheduler: Any, count: int) -> None:
    """Have Tune keep as many idle processes as trials run at once, for the trials to come.

    It keeps one, unless trials wait for it, and ours are asked for when results are in: two trials that
    end together would cost the start of a process, which takes longer than many a trial. Tune has no
    setting for it, so its cache is told, once, when the scheduler first meets the controller.
    """
    on_trial_add = scheduler.on_trial_add

    def first(controller: Any, trial: Any) -> None:
        controller._tune_controller._actor_cache.increase_max(trial.placement_group_factory, by=count)
        scheduler.on_trial_add = on_trial_add
        on_trial_add(controller, trial)

    scheduler.on_trial_add = first


def _name(trial: Any) -> str:
    return f"trial-{trial.config['number']}"


def _trainable(
    objective: Objective, shared: ray.ObjectRef, progress: Progress | None, *, checkpoints: bool
) -> Callable[[dict[str, Any]], None]:
    def trial(config: dict[str, Any]) -> None:
        logging.getLogger("ray.train").setLevel(logging.WARNING)  # a line a checkpoint
        started = time.monotonic()

        def report(metrics: Mapping[str, float], write: Write | None = None) -> None:
            found = {**metrics, SECONDS: time.monotonic() - started}
            if not checkpoints or write is None:
                tune.report(found)
                return
            with scratch("trial") as directory:
                write(directory)
                tune.report(found, checkpoint=tune.Checkpoint.from_directory(directory))

        checkpoint = tune.get_checkpoint()
        try:
            with checkpoint.as_directory() if checkpoint else nullcontext() as directory:
                resume = Path(directory) if directory else None
                running = Running(config["number"], config["params"], report, resume)
                ending: dict[str, Any] = dict(objective(ray.get(shared), running))
        except Exception as error:  # whatever a user's model raises: this trial failed, the study goes on
            ending = {FAILED: f"{type(error).__name__}: {error}"}
            if progress:  # median stopping looks for it in every result
                ending[progress.unit] = 0
        tune.report(ending | {SECONDS: time.monotonic() - started, FINAL: 1, DONE: True})

    return trial


class _Ticker(tune.Callback):  # type: ignore[misc]
    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._tick()


class StudySearch(SearchAlgorithm):  # type: ignore[misc]
    """Tune's SearchGenerator in all but its type, for PBT refuses that type.

    A searcher would learn from parameters that PBT has changed since; a study is told which they are.
    """

    def __init__(self, searcher: StudySearcher) -> None:
        self._generator = SearchGenerator(searcher)

    def add_configurations(self, experiments: Any) -> None:
        self._generator.add_configurations(experiments)

    @property
    def total_samples(self) -> int:
        return int(self._generator.total_samples)

    def next_trial(self) -> Any:
        return self._generator.next_trial()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._generator.on_trial_result(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self._generator.on_trial_complete(trial_id, result, error)

    def is_finished(self) -> bool:
        return bool(self._generator.is_finished())

    def set_finished(self) -> None:
        self._generator.set_finished()


class StudySearcher(Searcher):  # type: ignore[misc]
    """Hands Tune the study's trials, and the study what Tune hears of them."""

    def __init__(self, study: Study, progress: Progress | None = None) -> None:
        super().__init__()
        self._study = study
        self._unit = progress.unit if progress else TRAINING_ITERATION
        self._again = deque(study.pending())
        self._running: dict[str, Trial] = {}
        self._last: dict[str, dict[str, Any]] = {}

    def set_search_properties(self, metric: Any, mode: Any, config: dict[str, Any], **spec: Any) -> bool:
        return True  # the study has a space and objectives of its own

    def suggest(self, trial_id: str) -> Any:
        """Return a trial's configuration, None to wait for results, or FINISHED."""
        if len(self._running) >= self._study.header.concurrency:
            return None
        trial = self._again.popleft() if self._again else self._study.ask()
        if trial is None:
            return Searcher.FINISHED if self._study.is_finished() else None
        self._running[trial_id] = trial
        return {"number": trial.number, "params": trial.params}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._last[trial_id] = result
        metrics = _metrics(result)
        if metrics and not result.get(DONE):
            self._study.report(self._running[trial_id].number, int(result[self._unit]), metrics)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study how a trial ended: by itself, stopped by the scheduler, or not at all."""
        trial = self._running.pop(trial_id, None)
        result = result or self._last.pop(trial_id, {})  # a paused trial that is stopped comes without
        if trial is None:
            return
        seconds = float(result.get(SECONDS, result.get(TIME_TOTAL_S, 0.0)))
        if error or FAILED in result:
            reason = "its process died, or Ray could not start it; the job's log says why"
            self._study.tell(
                trial.number, {}, status="failed", seconds=seconds, error=str(result.get(FAILED, reason))
            )
        else:
            status: Status = "complete" if FINAL in result else "stopped"
            metrics = _metrics(result) | {SECONDS: seconds}
            ended = {name: result.get(CONFIG + name, value) for name, value in trial.params.items()}
            self._study.tell(
                trial.number, metrics, status=status, seconds=seconds,
                params=ended if ended != trial.params else None,
            )  # fmt: skip


def _metrics(result: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in result.items()
        if name not in _NOT_METRICS
        and "/" not in name  # Tune adds config/... of its own
        and isinstance(value, int | float)
        and not isinstance(value, bool)
    }
