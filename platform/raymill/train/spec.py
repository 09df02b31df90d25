"""The train spec: what `jobs/train.py --config` reads."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from raymill.config import Spec, parse
from raymill.data import ORDERS, LoaderConfig
from raymill.evaluation import Task
from raymill.features import Column
from raymill.flavors import FLAVORS
from raymill.train import STRATEGIES

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
Count = Annotated[int, Field(ge=1)]


class DataSpec(Spec):
    """Datasets, target and features. Paths are local, URIs, or relative to $RAYMILL_STORAGE."""

    train: str
    validation: str
    test: str | None = None
    """Held out; measured once, at the end, on the model that is published."""
    target: str
    features: dict[str, Column]
    """Column name to how it is read; an empty value takes the defaults."""

    @field_validator("features", mode="before")
    @classmethod
    def _empty_means_defaults(cls, features: Any) -> Any:
        if not isinstance(features, dict):
            return features
        return {name: {} if column is None else column for name, column in features.items()}

    @field_validator("features")
    @classmethod
    def _some(cls, features: dict[str, Column]) -> dict[str, Column]:
        if not features:
            raise ValueError("at least one feature is needed")
        return features

    def roles(self) -> dict[str, str]:
        """Return dataset role to path, for the roles that are given."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {role: path for role, path in named.items() if path is not None}


class ReadSpec(Spec):
    """How an epoch is read; see the loader."""

    order: str = "full"
    """full, sampled, or incremental: only files that the labelled version has not learned from."""
    options: dict[str, Any] = {}
    """The order's own settings, such as `fraction` of sampled and `replay` of incremental."""
    where: tuple[tuple[Any, ...], ...] = ()
    """Conditions [column, operator, value] that training rows must all meet."""
    batch_rows: int = Field(default=4096, ge=1)
    """Rows of a global batch, over all workers."""
    lanes: int | None = Field(default=None, ge=1)
    """Virtual workers among which an epoch is dealt; default: the most `workers`. Keep it when you resize."""
    window: int = Field(default=4, ge=1)
    shuffle: bool = True

    @field_validator("order")
    @classmethod
    def _known(cls, order: str) -> str:
        ORDERS.load(order)
        return order


class CheckpointSpec(Spec):
    """When training state is saved; always at the end of an epoch."""

    every_steps: int | None = Field(default=None, ge=1)
    """Also every so many steps inside an epoch; of boosting, rounds, by default its `measure_every`."""
    keep: int = Field(default=2, ge=1)
    """Newest checkpoints kept."""


class PublishSpec(Spec):
    """Where the trained model goes."""

    repository: str = "models"
    label: str | None = "stable"
    """Label moved to the new version; null moves none."""


class TrainSpec(Spec):
    """One training run, from datasets to a published version."""

    model: str = Field(pattern=NAME)
    """Name to publish under."""
    flavor: str = "torch"
    strategy: str = "ddp"
    task: Task = "binary"
    workers: Count | tuple[Count, Count] = 1
    """How many, or [fewest, most] of an elastic run, which grows and shrinks with the cluster."""
    resize_seconds: float = Field(default=60.0, gt=0)
    """How often an elastic run looks whether it can grow; each change costs the steps since a checkpoint."""
    cpus_per_worker: float = Field(default=1.0, gt=0)
    gpu: bool = False
    """One GPU a worker, with NCCL; else CPUs, with gloo."""
    max_failures: int = Field(default=3, ge=0)
    """Times a run is resumed from its last checkpoint after losing workers."""
    seed: int = Field(default=0, ge=0)
    run: str | None = Field(default=None, pattern=NAME)
    """Name of the run; that of an unfinished run resumes it, on any number of workers."""
    runs: str = "runs"
    """Where checkpoints and run records go."""
    study: str | None = None
    """Study and trial that found the hyper-parameters, as "study/trial"; kept in the version's lineage."""
    data: DataSpec
    read: ReadSpec = ReadSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    flavors: dict[str, dict[str, Any]] = {}
    """Hyper-parameters by flavor, so that one file serves several flavors."""
    publish: PublishSpec = PublishSpec()

    @field_validator("workers", mode="before")
    @classmethod
    def _some_workers(cls, workers: Any) -> Any:
        bounds = workers if isinstance(workers, list | tuple) else [workers]
        whole = all(isinstance(bound, int) and not isinstance(bound, bool) for bound in bounds)
        if len(bounds) not in (1, 2) or not whole or sorted(bounds) != list(bounds) or bounds[0] < 1:
            raise ValueError(
                "must be a number of at least 1, or [fewest, most] with 1 <= fewest <= most of an elastic run"
            )
        return workers

    @model_validator(mode="after")
    def _names_and_sections(self) -> TrainSpec:
        STRATEGIES.load(self.strategy)
        FLAVORS.load(self.flavor)
        for name, section in self.flavors.items():
            parse(FLAVORS.load(name).Config, section, source=f"flavors.{name}")
        stopping = getattr(self.flavor_config(), "early_stopping", None)
        if stopping is not None:
            stopping.metric_of(self.task)
        self.loader_config()
        return self

    def flavor_config(self) -> Any:
        """Return the chosen flavor's hyper-parameters."""
        return parse(FLAVORS.load(self.flavor).Config, self.flavors.get(self.flavor, {}))

    def loader_config(self) -> LoaderConfig:
        """Return the loader's settings; lanes default to the most workers there may be."""
        read = self.read
        return LoaderConfig(
            order=read.order, options=read.options, batch_rows=read.batch_rows,
            lanes=read.lanes or self.most_workers, window=read.window, shuffle=read.shuffle, seed=self.seed,
        )  # fmt: skip

    @property
    def is_elastic(self) -> bool:
        return not isinstance(self.workers, int)

    @property
    def fewest_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    def worker_resources(self) -> dict[str, float]:
        return {"CPU": self.cpus_per_worker} | ({"GPU": 1.0} if self.gpu else {})
