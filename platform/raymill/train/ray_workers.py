"""Running a training loop on Ray Train's workers: the rim where `TrainingLoop` meets Ray."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from raymill.cluster import dashboard_url
from raymill.errors import RaymillError, Unavailable
from raymill.runs import Point, RunLog, Runs
from raymill.storage import Location, locate
from raymill.train.base import TrainJob
from raymill.train.checkpoint import store
from raymill.train.loop import Group, TrainingLoop, Write
from raymill.train.ray_metrics import RayMetrics

POLL = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
# A report waits until Ray has looked for the one before, by default every 2 s: too long for epochs of
# milliseconds. Each look takes about 5 ms of the controller's core, and 2 ms of each worker's.
POLL_S, SMALL_POLL_S, SMALL_ROWS = "0.5", "0.1", 50_000
SETTINGS = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it prints every line twice
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # what the dashboard's train API answers from
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
}
# After a node is lost the old number of workers is asked for until this is over; then fewer.
ELASTIC_SETTINGS = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10"}

RESERVATION_FILE = "ray_train_run_id"

Work = Callable[[TrainJob, Group], TrainingLoop]
"""Makes the loop of one worker; runs on the worker."""


def run_workers(job: TrainJob, trainer: Any, work: Work, **settings: Any) -> Any:
    """Run `work` on the spec's workers until it ends, through failures; return Ray Train's result.

    Args:
        trainer: A Ray Train trainer class; `settings` are its own arguments.

    Raises:
        RaymillError: the first that a worker raised on purpose.
        TrainingFailedError: workers failed more often than the spec allows.
    """
    small = job.snapshots["train"].rows < SMALL_ROWS
    _set(SETTINGS | {POLL: SMALL_POLL_S if small else POLL_S})
    if job.spec.is_elastic:
        _set(ELASTIC_SETTINGS)
    _name_cluster()
    from ray.train import (
        CheckpointConfig,
        FailureConfig,
        LoggingConfig,
        RunConfig,
        ScalingConfig,
        TrainingFailedError,
    )

    from raymill.train.final_errors import FinalErrors
    from raymill.train.signals import Signals

    spec, runs = job.spec, locate(job.spec.runs)
    runs.make_directory()
    fitted = trainer(
        _run,
        train_loop_config={"job": job, "work": work},
        scaling_config=ScalingConfig(
            num_workers=spec.workers,
            use_gpu=spec.gpu,
            resources_per_worker=spec.worker_resources(),
            elastic_resize_monitor_interval_s=spec.resize_seconds,
        ),
        run_config=RunConfig(
            name=job.run,
            storage_path=runs.path,
            storage_filesystem=runs.filesystem,
            failure_config=FailureConfig(max_failures=spec.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=spec.checkpoint.keep),
            logging_config=LoggingConfig(log_level="WARNING"),
            callbacks=[Signals(), FinalErrors(), *_more(job)],
        ),
        **settings,
    )
    if spec.is_elastic:
        _take_over(runs / job.run, fitted.train_run_context.run_id)
    try:
        return fitted.fit()
    except TrainingFailedError as error:
        raise _own(error) from error


def _name_cluster() -> None:
    """Tell what Ray Train starts beside the workers which cluster is theirs.

    What gives back the nodes of a trial that was stopped looks for a Ray on its machine, and gives up
    where it finds two: the trials to come would wait for ever.
    """
    from ray._private.ray_constants import RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE as ADDRESS
    from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

    with suppress(Unavailable):  # without a dashboard there is nobody to ask
        _set({ADDRESS: dashboard_url()})
        ENV_VARS_TO_PROPAGATE.add(ADDRESS)


_set_before: dict[str, str] = {}


def _set(settings: Mapping[str, str]) -> None:
    """Put settings into the environment, where Ray Train reads them; what a person set there stays."""
    for name, value in settings.items():
        if os.environ.get(name) == _set_before.get(name):
            os.environ[name] = _set_before[name] = value


def _more(job: TrainJob) -> list[Any]:
    """Return what an elastic run needs besides, and what tells Tune of a trial's epochs."""
    found: list[Any] = []
    if job.spec.is_elastic:
        from raymill.train.fresh_nodes import FreshNodes

        found.append(FreshNodes())
    if job.trial is not None:
        from raymill.train.tune_report import EpochReports

        found.append(EpochReports())
    return found


def _take_over(run: Location, run_id: str) -> None:
    """Give back what a killed driver's attempt had reserved, and note what this one reserves.

    Ray Train cancels its reservation when it ends; killed, it holds the nodes for three more minutes,
    in which an elastic run finds no room for a single worker.
    """
    import ray
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )

    note = run / RESERVATION_FILE
    if note.exists():
        before = note.read_bytes().decode()
        ray.get(get_or_create_autoscaling_coordinator().cancel_request.remote(f"train-{before}"))
    run.make_directory()
    note.replace_bytes(run_id.encode())


def _own(error: Any) -> Exception:
    """Return the first error that Raymill raised on a worker, or Ray's where none did."""
    from raymill.train.final_errors import own_error

    ended = getattr(error, "controller_failure", None)
    if isinstance(ended, RaymillError):
        return ended
    return own_error(getattr(error, "worker_failures", {})) or error


def _run(config: dict[str, Any]) -> None:
    """Run on every Ray Train worker."""
    import ray.train
    import ray.train.v2._internal.execution.context

    # Silences a line a report and rank; Ray names this logger by its file, outside `LoggingConfig`.
    logging.getLogger(ray.train.v2._internal.execution.context.__file__).setLevel(logging.WARNING)
    group = RayGroup(config["job"])
    try:
        _train(config["work"](config["job"], group), group)
    finally:
        group.close()


def _train(loop: TrainingLoop, group: RayGroup) -> None:
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as directory:
            loop.load(Path(directory))
        if group.rank == 0:
            print(
                f"resumed at epoch {loop.epoch}, step {loop.step}, with {group.size} workers: "
                f"{loop.rows_seen:,} rows seen before",
                flush=True,
            )
    loop.run()


class RayGroup:
    """The ranks of a Ray Train worker group; they meet in torch.distributed, or in `exchange`."""

    def __init__(self, job: TrainJob) -> None:
        import ray.train

        context = ray.train.get_context()
        self.rank, self.size = context.get_world_rank(), context.get_world_size()
        self._run = locate(job.spec.runs) / job.run
        self._stored = threading.Event()
        self._stored.set()
        self._drained: Any = None
        self.exchange: Callable[[Any], list[Any]] | None = None
        listener = RayMetrics(job.run, job.spec.model)
        runs = Runs(job.spec.runs)
        self._log = RunLog(runs, job.run, listeners=[listener]) if self.rank == 0 else None

    def gather(self, mine: Any) -> list[Any]:
        if self.size == 1:
            return [mine]
        if self.exchange:
            return self.exchange(mine)
        import torch.distributed as dist

        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, mine)
        return parts

    def save(self, metrics: dict[str, float], write: Write, *, wait: bool) -> None:
        """Report to Ray Train; rank 0's checkpoint is written and stored by a thread of Ray's."""
        import ray.train
        from ray.train import Checkpoint, CheckpointUploadMode

        mode = CheckpointUploadMode.SYNC if wait else CheckpointUploadMode.ASYNC
        if self.rank != 0:
            ray.train.report(metrics, checkpoint_upload_mode=mode)
            return
        self._stored.wait()  # at most one in flight, for each holds a copy of the weights
        self._stored.clear()

        def upload(placeholder: Checkpoint, name: str) -> Checkpoint:
            try:
                stored = store(self._run, name, write)
            finally:
                self._stored.set()
            return Checkpoint(stored.path, stored.filesystem)

        ray.train.report(
            metrics,
            checkpoint=Checkpoint(self._run.path, self._run.filesystem),
            checkpoint_upload_mode=mode,
            checkpoint_upload_fn=upload,
            delete_local_checkpoint_after_upload=False,
        )

    def tell(self, point: Point, new_rows: int) -> None:
        assert self._log, "rank 0 tells"
        self._log.point(point, new_rows)

    def tell_epoch(self, rows: int, entry: Mapping[str, float]) -> None:
        assert self._log, "rank 0 tells"
        self._log.epoch(rows, entry)

    def close(self) -> None:
        """Store the rest of what was told."""
        if self._log:
            self._log.close()

    def must_leave(self) -> bool:
        """Whether this process got SIGTERM, or Ray drains a node of the group that it did not before."""
        import ray.train

        from raymill.train.signals import told_to_end

        drained = ray.train.get_preemption_info()
        news = drained is not None and drained != self._drained
        self._drained = drained
        return news or told_to_end.is_set()

    def leave(self) -> None:
        """End this process if it was told to. On a node that is drained go on until it is gone."""
        from ray.train import CheckpointConsistencyMode, get_all_reported_checkpoints

        from raymill.train.signals import end, told_to_end

        get_all_reported_checkpoints(consistency_mode=CheckpointConsistencyMode.COMMITTED)
        self.gather(None)  # nobody ends before every rank's report is in
        if self.rank == 0:
            print("a worker will be ended soon: checkpoint stored", flush=True)
        if told_to_end.is_set():
            end()
