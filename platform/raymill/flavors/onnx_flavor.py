"""PyTorch models kept as ONNX graphs alone: trained as flavor `torch`, predicted without torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from raymill.errors import SpecError
from raymill.features import Encoder
from raymill.flavors.base import Predictor
from raymill.flavors.onnx_graph import graph_weights, load_graph, write_graph
from raymill.flavors.torch_flavor import TorchFlavor, export


class OnnxFlavor(TorchFlavor):
    """Saves a torch learner's network as an ONNX graph, loads it into onnxruntime for the CPU."""

    name = "onnx"
    packages: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxruntime")

    def save(self, model: Any, directory: Path) -> None:
        """Export `model`, a TorchLearner, with any number of rows."""
        write_graph(export(model), directory)

    def check(self, config: Any) -> None:
        super().check(config)
        if config.onnx is False:
            raise SpecError(
                "flavors.onnx.onnx: false leaves nothing to publish, the graph is this flavor's model; "
                "drop it, or set `flavor: torch`"
            )

    def prepare_serving(self, model: Any, directory: Path, prove: Callable[[], None]) -> None:
        """Do nothing: the graph is the model."""

    def load(self, directory: Path, encoder: Encoder) -> Predictor:
        return load_graph(directory)

    def weights(self, directory: Path) -> dict[str, np.ndarray]:
        """Return the learned arrays of a saved model, in the names of its learner's `weights`.

        Raises:
            Corrupt: the file is not what this flavor writes.
        """
        return graph_weights(directory)
