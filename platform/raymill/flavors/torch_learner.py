"""A torch network that learns: loss, gradients, optimiser; what the strategies hold on each worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_map

from raymill.errors import Conflict, SpecError
from raymill.evaluation import Task
from raymill.features import Encoder, Features
from raymill.flavors.networks import check_output, make_network
from raymill.flavors.options import learning_rate
from raymill.flavors.torch_flavor import TorchConfig
from raymill.flavors.torch_networks import NETWORKS, Scorer

PREDICT_ROWS = 16_384  # rows a forward pass takes at once when predicting, to bound memory
STATE_FILE = "weights.pt"


class TorchLearner:
    """Implements `Learner`; `wrap` puts a wrapped network such as DDP's in its place for training."""

    def __init__(self, encoder: Encoder, config: TorchConfig, *, seed: int, device: str = "cpu") -> None:
        torch.manual_seed(seed)  # equal initial weights on every worker
        self.encoder, self.config, self.task = encoder, config, encoder.task
        self.device = torch.device(device)
        network = make_network(NETWORKS, encoder, config)
        if not isinstance(network, nn.Module):
            raise SpecError(f"network {config.network!r} is a {type(network).__name__}, no torch.nn.Module")
        self.network: nn.Module = network.to(self.device)
        self.forward: Callable[..., torch.Tensor] = self.network
        self._unsynchronised: Callable[[], AbstractContextManager[Any]] = nullcontext
        self.wrap(lambda network: network)
        self.draws = config.dropout > 0 or config.network not in NETWORKS
        self.optimizer = _optimizer(config, self.network)
        self.step_number, self.steps = 0, 1

    def plan(self, steps: int) -> None:
        """Say how many optimiser steps there will be in all; the schedule of the rate follows from it."""
        self.steps = steps

    def wrap(self, wrapper: Callable[[nn.Module], nn.Module]) -> None:
        """Train through `wrapper(network)`, compiled where the options say so."""
        wrapped = wrapper(self.network)
        self._unsynchronised = getattr(wrapped, "no_sync", nullcontext)
        self.forward = torch.compile(wrapped, dynamic=True) if self.config.compile else wrapped

    def probe(self) -> None:
        """Hold the network to the loss with two rows. Raises SpecError."""
        rows = self.encoder.empty(2)
        rows.numeric_NF.fill(0)
        rows.codes_NC.fill(0)
        try:
            with torch.no_grad():
                found = self.network.eval()(*self._tensors(rows))
        except Exception as error:
            raise SpecError(f"network {self.config.network!r} fails on two rows: {error!r}") from error
        check_output(self.config, self.encoder, 2, getattr(found, "shape", None))
        self.network.train()

    def loss_sum(
        self, features: Features, labels_N: np.ndarray, weights_N: np.ndarray | None = None
    ) -> torch.Tensor:
        """Return the summed loss over the rows, differentiable; no rows give a zero with a graph.

        Args:
            weights_N: float32, what each row's loss counts; None counts each once.
        """
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            logits = self.forward(*self._tensors(features))
        logits = logits.float() if self.task == "multiclass" else logits.float().flatten()
        labels = torch.from_numpy(labels_N).to(self.device, non_blocking=True)
        if weights_N is None:
            return row_losses(self.task, logits, labels, reduction="sum")
        weights = torch.from_numpy(weights_N).to(self.device, non_blocking=True)
        return (row_losses(self.task, logits, labels, reduction="none") * weights).sum()

    def step(
        self,
        features: Features,
        labels_N: np.ndarray,
        weights_N: np.ndarray | None,
        *,
        scale: float,
        key: tuple[int, ...],
    ) -> float:
        """Take one optimiser step with all ranks of `forward`; return the summed loss of these rows."""
        if self.draws:  # by position, so that a resumed run drops what it would have dropped
            self._seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        parts = list(_parts(len(features), self.config.accumulate))
        for i, rows in enumerate(parts):
            synchronise = nullcontext() if i == len(parts) - 1 else self._unsynchronised()
            with synchronise:
                loss = self.loss_sum(
                    features.take(rows), labels_N[rows], None if weights_N is None else weights_N[rows]
                )
                torch.autograd.backward(loss * scale)
            total += float(loss.detach())
        self._update()
        return total

    def _seed(self, seed: int) -> None:
        """Seed what draws on this device; `torch.manual_seed` looks for every kind of device, for 1 ms."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _update(self) -> None:
        """Step the optimiser along the gradients that the parameters hold."""
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        rate = learning_rate(self.config, self.step_number, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step_number += 1

    def is_finite(self) -> bool:
        """Return whether every weight is a finite number."""
        return all(bool(torch.isfinite(value).all()) for value in self.network.parameters())

    def freeze(self) -> Callable[[Path], None]:
        """Return a writer of weights and optimiser as they are now; it may run in another thread."""
        state = {
            "network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(),
            "step": self.step_number,
        }  # fmt: skip
        copied = tree_map(lambda leaf: leaf.cpu().clone() if isinstance(leaf, torch.Tensor) else leaf, state)
        return lambda directory: torch.save(copied, directory / STATE_FILE)

    def restore(self, directory: Path) -> None:
        """Take over what `freeze` wrote. Raises Conflict for another network's state."""
        state = torch.load(directory / STATE_FILE, map_location=self.device, weights_only=True)
        try:
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise Conflict(
                f"the checkpoint is of another network or optimizer: {error}; start a new run, or keep "
                "flavors.torch as it was"
            ) from error
        for group in self.optimizer.param_groups:  # a trial may go on with other settings than it began with
            group["weight_decay"] = self.config.weight_decay
        self.step_number = state["step"]

    def weights(self) -> dict[str, np.ndarray]:
        return {name: value.detach().cpu().numpy().copy() for name, value in self.network.named_parameters()}

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        parameters = dict(self.network.named_parameters())
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(torch.from_numpy(np.asarray(weights[name])))

    def gradients(
        self,
        features: Features,
        labels_N: np.ndarray,
        global_rows: int,
        weights_N: np.ndarray | None = None,
    ) -> tuple[float, dict[str, np.ndarray]]:
        self.optimizer.zero_grad(set_to_none=False)
        loss = self.loss_sum(features, labels_N, weights_N)
        torch.autograd.backward(loss / global_rows)
        found = {
            name: np.zeros(tuple(p.shape), np.float32) if p.grad is None else p.grad.cpu().numpy().copy()
            for name, p in self.network.named_parameters()
        }
        return float(loss.detach()), found

    def apply(self, gradients: Mapping[str, np.ndarray]) -> None:
        for name, parameter in self.network.named_parameters():
            parameter.grad = torch.tensor(
                np.asarray(gradients[name]), device=self.device
            )  # a copy: it is zeroed
        self._update()

    def predict(self, features: Features) -> np.ndarray:
        scorer = Scorer(self.network, self.task).eval()
        with torch.inference_mode():
            parts = [
                scorer(*self._tensors(features.take(slice(i, i + PREDICT_ROWS)))).cpu().numpy()
                for i in range(0, max(len(features), 1), PREDICT_ROWS)
            ]
        self.network.train()
        return np.concatenate(parts)

    def _tensors(self, features: Features) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            torch.from_numpy(features.numeric_NF).to(self.device, non_blocking=True),
            torch.from_numpy(features.codes_NC).to(self.device, non_blocking=True),
        )


def row_losses(
    task: Task, logits: torch.Tensor, labels: torch.Tensor, *, reduction: Literal["sum", "none"]
) -> torch.Tensor:
    """Return binary or categorical cross-entropy, or squared error: a row's each, or their sum."""
    if task == "binary":
        return nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction=reduction)
    if task == "multiclass":
        return nn.functional.cross_entropy(logits, labels, reduction=reduction)
    return nn.functional.mse_loss(logits, labels, reduction=reduction)


def _parts(rows: int, count: int) -> Iterator[slice]:
    """Yield `count` slices that cut the rows as evenly as can be; empty ones where there are few."""
    for i in range(count):
        yield slice(rows * i // count, rows * (i + 1) // count)


def _optimizer(config: TorchConfig, network: nn.Module) -> torch.optim.Optimizer:
    shared: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": True}
    if config.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), momentum=config.momentum, **shared)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(network.parameters(), **shared)
