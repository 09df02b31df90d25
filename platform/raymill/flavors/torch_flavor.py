"""PyTorch models, kept as exported programs (`torch.export`, a .pt2 archive), with an ONNX graph to serve.

The archive is a zip of a JSON graph and raw weight bytes. Its format allows much more, which loading
would unpickle or evaluate; `load` refuses an archive that has any of it (torch_archive.py).
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from raymill.errors import Corrupt, SpecError, needs_extra
from raymill.features import Encoder, Features
from raymill.flavors.base import Flavor, Predictor
from raymill.flavors.networks import own_network
from raymill.flavors.onnx_graph import GRAPH_FILE, load_graph, write_graph
from raymill.flavors.options import GradientOptions
from raymill.flavors.torch_archive import refuse_unsafe

log = logging.getLogger(__name__)

PROGRAM_FILE = "model.pt2"


class TorchConfig(GradientOptions):
    """The network, its training, and in what form it is served."""

    onnx: bool | None = None
    """Whether the published version also holds an ONNX graph, which answers a row on the CPU in a tenth of
    the time; default: where the extra `onnx` is installed, the network can be exported, and its golden rows
    agree."""


class TorchFlavor(Flavor):
    """Saves a learner's network as an exported program, loads it or the graph beside it for the CPU."""

    name = "torch"
    Config = TorchConfig
    collective = "raymill.train.torch_ddp:fit"
    local = "raymill.train.torch_local:fit"
    mutable = ("learning_rate", "weight_decay", "dropout")
    packages: ClassVar[tuple[str, ...]] = ("torch",)

    def check(self, config: Any) -> None:
        own_network(config)

    def probe(self, config: Any, encoder: Encoder) -> None:
        if config.network == "mlp":
            return  # fits every encoder; importing torch here would delay the workers
        from raymill.flavors.torch_learner import TorchLearner

        TorchLearner(encoder, config, seed=0).probe()

    def save(self, model: Any, directory: Path) -> None:
        """Export `model`, a TorchLearner, with any number of rows."""
        import torch

        program = export(model)
        program._example_inputs = None  # the archive would hold them pickled
        torch.export.save(program, directory / PROGRAM_FILE)
        refuse_unsafe(directory / PROGRAM_FILE)

    def prepare_serving(self, model: Any, directory: Path, prove: Callable[[], None]) -> None:
        """Add an ONNX graph of `model`, a TorchLearner.

        Raises:
            RaymillError: the configuration wants one, and there is none that agrees with the program.
        """
        if model.config.onnx is False:
            return
        try:
            write_graph(export(model), directory)
            prove()
        except Exception as error:  # of the exporter's many types
            (directory / GRAPH_FILE).unlink(missing_ok=True)
            if model.config.onnx:
                raise SpecError(
                    f"there is no ONNX graph of this network: {error!r:.500}; without `onnx: true` it is "
                    "served as the exported program"
                ) from error
            log.warning("served as the exported program, for there is no ONNX graph: %.300r", error)

    def resident_bytes(self, files: Mapping[str, int]) -> int:
        return sum(files.values()) - (files.get(PROGRAM_FILE, 0) if GRAPH_FILE in files else 0)

    def load(self, directory: Path, encoder: Encoder) -> Predictor:
        if (directory / GRAPH_FILE).exists():
            if importlib.util.find_spec("onnxruntime"):
                return load_graph(directory)
            log.warning("onnxruntime is not installed, the exported program answers in ten times the time")
        with needs_extra("torch"):
            import torch

        path = directory / PROGRAM_FILE
        refuse_unsafe(path)
        try:
            # the encoder makes the shapes that the guards would check again, at a quarter of a row's time
            program = torch.export.load(path).module(check_guards=False)
        except Exception as error:  # of a dozen types; all mean that these bytes are no program
            raise Corrupt(f"{path} is not an exported program: {error!r:.300}") from error
        return _TorchPredictor(program)

    def weights(self, directory: Path) -> dict[str, np.ndarray]:
        """Return the learned arrays of a saved model, in the names of its learner's `weights`.

        Raises:
            Corrupt: the file is not what this flavor writes.
        """
        import torch

        path = directory / PROGRAM_FILE
        refuse_unsafe(path)
        try:
            program = torch.export.load(path)
        except Exception as error:  # of a dozen types; all mean that these bytes are no program
            raise Corrupt(f"{path} is not an exported program: {error!r:.300}") from error
        return {
            name.removeprefix("network."): value.detach().numpy().copy()
            for name, value in program.named_parameters()
        }


def export(learner: Any) -> Any:
    """Return a TorchLearner's network with its activation as an exported program of any number of rows."""
    import torch

    from raymill.flavors.torch_networks import Scorer

    network = learner.network.cpu().eval()
    numeric = torch.zeros((3, len(learner.encoder.numeric)), dtype=torch.float32)
    codes = torch.zeros((3, len(learner.encoder.categorical)), dtype=torch.int32)
    rows = torch.export.Dim("rows", min=1)
    return torch.export.export(
        Scorer(network, learner.task).eval(), (numeric, codes), dynamic_shapes=({0: rows}, {0: rows})
    )


class _TorchPredictor:
    def __init__(self, program: Any) -> None:
        self._program = program

    def predict(self, features: Features) -> np.ndarray:
        import torch

        with torch.inference_mode():
            scores = self._program(torch.from_numpy(features.numeric_NF), torch.from_numpy(features.codes_NC))
        return np.asarray(scores.numpy())
