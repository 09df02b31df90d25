"""The built-in tabular network: standardised numbers and embedded categories through dense layers.

Nulls, standardising and embedding are part of the program, so the exported model takes the encoder's
output as it is: numbers with NaN for nulls, and category codes.
"""

from __future__ import annotations

import torch
from torch import nn

from raymill.evaluation import Task
from raymill.features import Encoder

# N = rows, F = numeric columns, I = numeric columns that may be null, C = categorical columns

MAX_EMBEDDING = 32
STANDARDISED_LIMIT = 10.0  # clips what lies ten deviations out, so one wild value cannot blow up a step


def embedding_size(categories: int) -> int:
    """Return the width of an embedding: three times the fourth root, within [2, 32]."""
    return min(MAX_EMBEDDING, max(2, int(3.0 * categories**0.25 + 0.5)))


class TabularMLP(nn.Module):
    """Logits [N] (binary, regression) or [N, classes] of encoded rows."""

    mean_F: torch.Tensor
    scale_F: torch.Tensor
    nullable_I: torch.Tensor

    def __init__(self, encoder: Encoder, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        numeric = encoder.numeric
        self.register_buffer("mean_F", torch.tensor([column.mean for column in numeric]))
        self.register_buffer("scale_F", torch.tensor([1.0 / column.std for column in numeric]))
        nullable = [j for j, column in enumerate(numeric) if column.nulls == "mean"]
        self.register_buffer("nullable_I", torch.tensor(nullable, dtype=torch.int64))
        sizes = [len(column.vocabulary) + 1 for column in encoder.categorical]
        embeddings = [nn.Embedding(size, embedding_size(size)) for size in sizes]
        self.embeddings = nn.ModuleList(embeddings)
        for embedding in embeddings:
            nn.init.normal_(embedding.weight, std=0.05)
            nn.init.zeros_(embedding.weight[0])  # unknown: training rarely sees it, so it says nothing
        width = len(numeric) + len(nullable) + sum(embedding_size(size) for size in sizes)
        layers: list[nn.Module] = []
        for units in hidden:
            layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(dropout)]
            width = units
        outputs = encoder.scores_per_row
        layers.append(nn.Linear(width, outputs))
        self.layers = nn.Sequential(*layers)
        self.squeeze = outputs == 1

    def forward(self, numeric_NF: torch.Tensor, codes_NC: torch.Tensor) -> torch.Tensor:
        missing_NF = torch.isnan(numeric_NF)
        standard_NF = (numeric_NF - self.mean_F) * self.scale_F
        standard_NF = standard_NF.clamp(-STANDARDISED_LIMIT, STANDARDISED_LIMIT)
        standard_NF = torch.where(missing_NF, torch.zeros_like(standard_NF), standard_NF)
        parts = [standard_NF, missing_NF[:, self.nullable_I].to(numeric_NF.dtype)]
        parts += [embed(codes_NC[:, j]) for j, embed in enumerate(self.embeddings)]
        logits: torch.Tensor = self.layers(torch.cat(parts, dim=1))
        return logits.squeeze(1) if self.squeeze else logits


class Scorer(nn.Module):
    """The program that is exported: the network with its activation."""

    def __init__(self, network: nn.Module, task: Task) -> None:
        super().__init__()
        self.network, self.task = network, task

    def forward(self, numeric_NF: torch.Tensor, codes_NC: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(numeric_NF, codes_NC)
        if self.task == "binary":
            return torch.sigmoid(logits)
        return torch.softmax(logits, dim=1) if self.task == "multiclass" else logits
