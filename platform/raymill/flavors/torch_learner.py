"""A torch network that learns: loss, gradients, optimiser; what the strategies hold on each worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_map

from raymill.evaluation import Task
from raymill.features import Encoder, Features
from raymill.flavors.torch_flavor import TorchConfig
from raymill.flavors.torch_mlp import Scorer, TabularMLP

PREDICT_ROWS = 16_384  # rows a forward pass takes at once when predicting, to bound memory
STATE_FILE = "weights.pt"


class TorchLearner:
    """Implements `Learner`; `forward` may be swapped for a wrapped network such as DDP's."""

    def __init__(self, encoder: Encoder, config: TorchConfig, *, seed: int, device: str = "cpu") -> None:
        torch.manual_seed(seed)  # equal initial weights on every worker
        self.task, self.device = encoder.task, torch.device(device)
        self.network = TabularMLP(encoder, config.hidden, config.dropout).to(self.device)
        self.forward: nn.Module = self.network
        self.draws = config.dropout > 0
        self._settings = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    def loss_sum(
        self, features: Features, labels_N: np.ndarray, weights_N: np.ndarray | None = None
    ) -> torch.Tensor:
        """Return the summed loss over the rows, differentiable; no rows give a zero with a graph.

        Args:
            weights_N: float32, what each row's loss counts; None counts each once.
        """
        logits = self.forward(*self._tensors(features))
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
            torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss_sum(features, labels_N, weights_N)
        torch.autograd.backward(loss * scale)
        self.optimizer.step()
        return float(loss.detach())

    def freeze(self) -> Callable[[Path], None]:
        """Return a writer of weights and optimiser as they are now; it may run in another thread."""
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        copied = tree_map(lambda leaf: leaf.cpu().clone() if isinstance(leaf, torch.Tensor) else leaf, state)
        return lambda directory: torch.save(copied, directory / STATE_FILE)

    def restore(self, directory: Path) -> None:
        """Take over what `freeze` wrote."""
        state = torch.load(directory / STATE_FILE, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:  # a trial may go on with other settings than it began with
            group.update(self._settings)

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
        self.optimizer.step()

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
