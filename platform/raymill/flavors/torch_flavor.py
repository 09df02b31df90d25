"""PyTorch models, kept as exported programs (`torch.export`, a .pt2 archive).

The archive is a zip of a JSON graph and raw weight bytes. Its format also allows pickled payloads
and symbolic expressions that are evaluated as text; ours have none of the first and only plain
arithmetic in the second, and `load` refuses an archive that has more: nothing from a repository is
ever unpickled or evaluated. See docs/decisions/0003-model-format.md.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from raymill.config import Spec
from raymill.errors import Corrupt, needs_extra
from raymill.features import Encoder, Features
from raymill.flavors.base import Flavor, Predictor

PROGRAM_FILE = "model.pt2"
_SAFE_EXPRESSION = re.compile(  # what the exporter writes for shapes: names, whole numbers, arithmetic
    r"^(?:Symbol\('[su]\d+'|Integer\(|(?:positive|nonnegative|integer)=True|-?\d+"
    r"|Add|Mul|Pow|Max|Min|Mod|FloorDiv|[-+*(), ])*$"
)


class TorchConfig(Spec):
    """The network and its training."""

    network: Literal["mlp"] = "mlp"
    hidden: tuple[int, ...] = (128, 64)
    """Units of each hidden layer."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    epochs: int = Field(default=3, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)


class TorchFlavor(Flavor):
    """Saves a learner's network as an exported program, loads it back for the CPU."""

    name = "torch"
    Config = TorchConfig
    collective = "raymill.train.torch_ddp:fit"
    packages = ("torch",)

    def save(self, model: Any, directory: Path) -> None:
        """Export `model`, a TorchLearner, with any number of rows."""
        import torch

        from raymill.flavors.torch_mlp import Scorer

        network = model.network.cpu().eval()
        numeric = torch.zeros((3, len(network.mean_F)), dtype=torch.float32)
        codes = torch.zeros((3, len(network.embeddings)), dtype=torch.int32)
        rows = torch.export.Dim("rows", min=1)
        program = torch.export.export(
            Scorer(network, model.task).eval(), (numeric, codes), dynamic_shapes=({0: rows}, {0: rows})
        )
        program._example_inputs = None  # the archive would hold them pickled
        torch.export.save(program, directory / PROGRAM_FILE)
        refuse_unsafe(directory / PROGRAM_FILE)

    def load(self, directory: Path, encoder: Encoder) -> Predictor:
        with needs_extra("torch"):
            import torch

        path = directory / PROGRAM_FILE
        refuse_unsafe(path)
        return _TorchPredictor(torch.export.load(path).module())


class _TorchPredictor:
    def __init__(self, program: Any) -> None:
        self._program = program

    def predict(self, features: Features) -> np.ndarray:
        import torch

        with torch.inference_mode():
            scores = self._program(torch.from_numpy(features.numeric_NF), torch.from_numpy(features.codes_NC))
        return np.asarray(scores.numpy())


def refuse_unsafe(path: Path) -> None:
    """Refuse an archive that would have loading it unpickle or evaluate anything.

    Raises:
        Corrupt: not an archive, a pickled payload, or an expression beyond plain arithmetic.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".json"):
                    _check_document(json.loads(archive.read(name)), f"{path.name}:{name}")
                elif name.endswith((".pkl", ".pickle")) or "/sample_inputs/" in name and archive.read(name):
                    raise Corrupt(f"{path}: {name} is pickled; refused. Publish the model again with Raymill")
    except (zipfile.BadZipFile, json.JSONDecodeError, UnicodeDecodeError, FileNotFoundError) as error:
        raise Corrupt(f"{path} is not an exported program: {error}") from error


def _check_document(document: Any, where: str) -> None:
    for key, value in _walk(document):
        if key == "use_pickle" and value:
            raise Corrupt(f"{where}: a pickled payload is refused; publish the model again with Raymill")
        if key == "expr_str" and not _SAFE_EXPRESSION.match(str(value)):
            raise Corrupt(f"{where}: expression {value!r:.80} is more than shape arithmetic; refused")


def _walk(node: Any) -> Iterator[tuple[str, Any]]:
    stack = [node]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield from node.items()
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
