"""PyTorch models, kept as exported programs (`torch.export`, a .pt2 archive).

The archive is a zip of a JSON graph and raw weight bytes. Its format allows much more, which loading
would unpickle or evaluate; `load` refuses an archive that has any of it (torch_archive.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from raymill.errors import Corrupt, needs_extra
from raymill.features import Encoder, Features
from raymill.flavors.base import Flavor, Predictor
from raymill.flavors.networks import own_network
from raymill.flavors.options import GradientOptions
from raymill.flavors.torch_archive import refuse_unsafe

PROGRAM_FILE = "model.pt2"


class TorchConfig(GradientOptions):
    """The network and its training."""


class TorchFlavor(Flavor):
    """Saves a learner's network as an exported program, loads it back for the CPU."""

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

    def load(self, directory: Path, encoder: Encoder) -> Predictor:
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
