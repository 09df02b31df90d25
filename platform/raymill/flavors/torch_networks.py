"""The built-in torch networks: dense layers over all inputs, convolutions over those that are images.

Nulls, standardising and embedding are part of the program, so the exported model takes the encoder's
output as it is: numbers with NaN for nulls, and category codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from raymill.config import parse
from raymill.evaluation import Task
from raymill.features import Encoder
from raymill.flavors.networks import STANDARDISED_LIMIT, Build, embedding_size, image_places
from raymill.flavors.options import CnnOptions, GradientOptions

# N = rows, F = numeric columns, I = numeric columns that may be null, C = categorical columns,
# D = width of the prepared row


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
        self.layers = dense(self.extra_width(width), hidden, dropout, encoder.scores_per_row)

    def extra_width(self, width: int) -> int:
        """Return the width of what the dense layers read, given that of the prepared row."""
        return width

    def prepare(self, numeric_NF: torch.Tensor, codes_NC: torch.Tensor) -> torch.Tensor:
        """Return float32 [N, D]: standardised numbers, indicators of nulls, embeddings."""
        standard_NF = (numeric_NF - self.mean_F) * self.scale_F
        standard_NF = standard_NF.clamp(-STANDARDISED_LIMIT, STANDARDISED_LIMIT)
        parts = [standard_NF]
        if len(self.nullable_I):  # the encoder lets no other column be null
            missing_NF = torch.isnan(numeric_NF)
            parts = [
                standard_NF.masked_fill(missing_NF, 0.0),
                missing_NF.index_select(1, self.nullable_I).to(numeric_NF.dtype),
            ]
        parts += [embed(codes_NC[:, j]) for j, embed in enumerate(self.embeddings)]
        return torch.cat(parts, dim=1)

    def forward(self, numeric_NF: torch.Tensor, codes_NC: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(self.prepare(numeric_NF, codes_NC))
        return logits


class ImageCNN(TabularMLP):
    """Convolutions over each fixed-size list column as an image, dense layers over them and all else."""

    def __init__(self, encoder: Encoder, options: GradientOptions) -> None:
        settings = parse(CnnOptions, options.options)
        self._places = image_places(encoder)
        shapes = [settings.image_shape(name, span.stop - span.start) for name, span in self._places]
        self._shapes = shapes
        self._features: int = 0
        towers = []
        for height, width, depth in shapes:
            layers: list[nn.Module] = []
            for channels in settings.channels:
                layers += [
                    nn.Conv2d(depth, channels, settings.kernel, padding="same"),
                    nn.ReLU(),
                    nn.MaxPool2d(2),
                ]
                height, width, depth = height // 2, width // 2, channels
            towers.append(nn.Sequential(*layers, nn.Flatten()))
            self._features += height * width * depth
        self._pixels: int = sum(span.stop - span.start for _, span in self._places)
        super().__init__(encoder, options.hidden, options.dropout)
        self.towers = nn.ModuleList(towers)

    def extra_width(self, width: int) -> int:
        return width - self._pixels + self._features

    def forward(self, numeric_NF: torch.Tensor, codes_NC: torch.Tensor) -> torch.Tensor:
        row_ND = self.prepare(numeric_NF, codes_NC)
        parts, start = [], 0
        for (_, span), (height, width, depth), tower in zip(
            self._places, self._shapes, self.towers, strict=True
        ):
            parts.append(row_ND[:, start : span.start])
            image = row_ND[:, span].reshape(-1, height, width, depth).permute(0, 3, 1, 2)
            parts.append(tower(image))
            start = span.stop
        logits: torch.Tensor = self.layers(torch.cat([*parts, row_ND[:, start:]], dim=1))
        return logits


def dense(width: int, hidden: Sequence[int], dropout: float, outputs: int) -> nn.Sequential:
    """Return dense layers with ReLU and dropout, and a last one without."""
    layers: list[nn.Module] = []
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(dropout)]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, outputs))


NETWORKS: dict[str, Build] = {
    "mlp": lambda encoder, options: TabularMLP(encoder, options.hidden, options.dropout),
    "cnn": ImageCNN,
}


class Scorer(nn.Module):
    """The program that is exported: the network with its activation."""

    def __init__(self, network: nn.Module, task: Task) -> None:
        super().__init__()
        self.network, self.task = network, task

    def forward(self, numeric_NF: torch.Tensor, codes_NC: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(numeric_NF, codes_NC)
        if self.task == "multiclass":
            return torch.softmax(logits, dim=1)
        return torch.sigmoid(logits.flatten()) if self.task == "binary" else logits.flatten()
