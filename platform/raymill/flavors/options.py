"""Training options that flavors share, so that one name means one thing whatever the framework."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from raymill.config import Spec, parse
from raymill.errors import SpecError, nearest
from raymill.evaluation import HIGHER_IS_BETTER, METRICS, PRIMARY_METRIC, Task


class EarlyStopping(Spec):
    """Ends training when the validation set, measured exactly and as a whole, gets no better."""

    metric: str | None = None
    """One of the task's metrics; default: auc (binary), accuracy (multiclass), rmse (regression)."""
    patience: int = Field(default=3, ge=1)
    """Measurements in a row without improvement after which training ends."""
    min_delta: float = Field(default=0.0, ge=0)
    """What the metric must improve by to count, in its own unit."""

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str | None) -> str | None:
        if metric is not None and metric not in HIGHER_IS_BETTER:
            raise ValueError(
                f"must be one of {', '.join(HIGHER_IS_BETTER)}{nearest(metric, HIGHER_IS_BETTER)}"
            )
        return metric

    def metric_of(self, task: Task) -> str:
        """Return the metric that is watched. Raises SpecError for one that the task does not have."""
        metric = self.metric or PRIMARY_METRIC[task]
        if metric not in METRICS[task]:
            raise SpecError(
                f"early_stopping.metric {metric!r} is no metric of task {task}; have: "
                f"{', '.join(METRICS[task])}"
            )
        return metric

    def is_better(self, task: Task, value: float, best: float) -> bool:
        """Return whether `value` improves on `best`, which is NaN before the first measurement."""
        gain = value - best if HIGHER_IS_BETTER[self.metric_of(task)] else best - value
        return math.isnan(best) or gain > self.min_delta


class CnnOptions(Spec):
    """`options` of network cnn."""

    channels: tuple[int, ...] = Field(default=(16, 32), min_length=1)
    """Filters of each convolution; every one is followed by ReLU and a 2x2 maximum."""
    kernel: int = Field(default=3, ge=1)
    """Side of the square filters."""
    shape: tuple[int, int, int] | None = None
    """Height, width and channels of the images, in the order in which the list column holds the numbers;
    default: square with one channel."""

    def image_shape(self, name: str, size: int) -> tuple[int, int, int]:
        """Return height, width and channels of images of `size` numbers.

        Raises:
            SpecError: numbers that make no such image, or an image that the convolutions shrink away.
        """
        side = math.isqrt(size)
        shape = self.shape or (side, side, 1)
        if math.prod(shape) != size:
            said = f"shape {list(shape)}" if self.shape else "a square of one channel"
            raise SpecError(
                f"network cnn: column {name!r} holds {size} numbers, which are not {said}; "
                "give options.shape as [height, width, channels]"
            )
        if min(shape[:2]) >> len(self.channels) == 0:
            raise SpecError(
                f"network cnn: {len(self.channels)} convolutions halve images of {shape[0]}x{shape[1]} to "
                "nothing; give fewer options.channels"
            )
        return shape


BUILT_IN: dict[str, type[Spec]] = {"mlp": Spec, "cnn": CnnOptions}
"""Networks that every flavor has, with the spec of their `options`."""


class GradientOptions(Spec):
    """A network and how it learns; the same for every flavor whose models learn by gradients."""

    network: str = "mlp"
    """mlp (embeddings and dense layers), cnn (images from fixed-size list columns), or the Python path
    module:callable of a network of your own, shipped with the job; see docs/networks.md."""
    options: dict[str, Any] = {}
    """Passed to the network's callable; see the built-in's own."""
    hidden: tuple[int, ...] = (128, 64)
    """Units of each dense layer of a built-in network."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Chance that a unit of a built-in network's dense layers is dropped in training."""
    epochs: int = Field(default=3, ge=1)
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    """Decoupled from the gradient with adamw (Loshchilov and Hutter, 2019), an L2 penalty's gradient else."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Of sgd."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate after the warm-up: kept, or down to `final_rate` by the last step."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of all steps in which the rate rises linearly from nearly none."""
    final_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of the learning rate that linear and cosine end with."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest L2 norm of the whole gradient of a global batch; a longer one is scaled down to it."""
    accumulate: int = Field(default=1, ge=1)
    """Parts in which a worker takes its rows of a batch, one after the other, their gradients added up:
    the same step in a part of the memory."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: mixed; weights, their updates and loss stay float32, and so does the published model."""
    compile: bool = False
    """Compile the network (torch.compile): minutes at first, faster steps on GPUs and large networks."""
    early_stopping: EarlyStopping | None = None

    @model_validator(mode="after")
    def _consistent(self) -> GradientOptions:
        if self.network in BUILT_IN:
            parse(BUILT_IN[self.network], self.options, source=f"options of network {self.network}")
        elif ":" not in self.network:
            raise SpecError(
                f"network {self.network!r} is unknown; have: {', '.join(BUILT_IN)}, or the Python path "
                f"module:callable of your own.{nearest(self.network, BUILT_IN)}"
            )
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(
                f"momentum={self.momentum} is of optimizer sgd, not {self.optimizer}; leave it out"
            )
        if self.final_rate and self.schedule == "constant":
            raise ValueError(
                f"final_rate={self.final_rate} needs schedule linear or cosine, got constant; name one"
            )
        return self


def learning_rate(options: GradientOptions, step: int, steps: int) -> float:
    """Return the rate of optimiser step `step`, from 0, of `steps` in all.

    Linear warm-up over `warmup * steps` steps, then constant, a straight line, or half a cosine
    (Loshchilov and Hutter, 2017) down to `final_rate` at the last step.
    """
    peak, warm = options.learning_rate, math.ceil(options.warmup * steps)
    if step < warm:
        return peak * (step + 1) / (warm + 1)
    if options.schedule == "constant":
        return peak
    done = min((step - warm) / max(steps - 1 - warm, 1), 1.0)
    left = 1 - done if options.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return peak * (options.final_rate + (1 - options.final_rate) * left)


class Best:
    """What early stopping has seen: the best measurement, and for how long none was better."""

    def __init__(self, rule: EarlyStopping, task: Task) -> None:
        self._rule, self._task = rule, task
        self.key = f"validation_{rule.metric_of(task)}"
        self.value, self.since = float("nan"), 0

    def take(self, entry: Mapping[str, float]) -> bool:
        """Take a measurement in; return whether it is the best so far."""
        if self._rule.is_better(self._task, entry[self.key], self.value):
            self.value, self.since = entry[self.key], 0
            return True
        self.since += 1
        return False

    def state(self) -> dict[str, float]:
        """Return the state as JSON can hold it, for `load`."""
        return {"value": self.value, "since": self.since}

    def load(self, state: Mapping[str, float]) -> None:
        self.value, self.since = float(state["value"]), int(state["since"])

    @property
    def is_over(self) -> bool:
        return self.since >= self._rule.patience


def best_round(rule: EarlyStopping | None, task: Task, history: Iterable[Mapping[str, float]]) -> int | None:
    """Return the boosting round that early stopping keeps; None where there is no rule."""
    if rule is None:
        return None
    best, kept = Best(rule, task), None
    for entry in history:
        if best.take(entry):
            kept = int(entry["round"])
    return kept
