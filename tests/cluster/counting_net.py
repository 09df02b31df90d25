"""A network in which every row has a weight of its own, so that the model says how often it saw each row."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class Counting(nn.Module):
    """Logits [N]: the weight of the row's id, zero before its first step. Slow enough to be disturbed."""

    def __init__(self, encoder: Any, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.table = nn.Embedding(len(encoder.categorical[0].vocabulary) + 1, 1)
        nn.init.zeros_(self.table.weight)
        self.pause = float(os.environ["COUNTING_PAUSE_S"])

    def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        if self.training:
            time.sleep(self.pause)
        logits: torch.Tensor = self.table(codes[:, 0])
        return logits


def three_logits(encoder: Any, options: Mapping[str, Any]) -> nn.Module:
    """Return a network whose output fits no binary loss."""

    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(3))

        def forward(self, numeric: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
            return self.bias.expand(len(codes), 3)

    return Three()
