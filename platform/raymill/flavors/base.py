"""The contract of a flavor. Flavor modules import their framework only inside functions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from raymill.config import Spec
from raymill.features import Encoder, Features


class Predictor(Protocol):
    """A loaded model; safe to call from one thread at a time."""

    def predict(self, features: Features) -> np.ndarray:
        """Return float32 scores: [rows], or [rows, classes] for multiclass."""
        ...


class Learner(Protocol):
    """What a strategy needs of a framework whose models learn by gradients."""

    def weights(self) -> dict[str, np.ndarray]:
        """Return a copy of all learned arrays by name."""
        ...

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Replace all learned arrays; names and shapes must be those of `weights()`."""
        ...

    def gradients(
        self,
        features: Features,
        labels_N: np.ndarray,
        global_rows: int,
        weights_N: np.ndarray | None = None,
    ) -> tuple[float, dict[str, np.ndarray]]:
        """Return the summed loss of these rows and the gradient of their part of the global mean.

        Gradients of all parts of a global batch add up to the gradient of its mean loss; no rows
        give zeros. `weights_N`, float32, says how often each row counts; None is once.
        """
        ...

    def apply(self, gradients: Mapping[str, np.ndarray]) -> None:
        """Take one optimiser step."""
        ...

    def predict(self, features: Features) -> np.ndarray:
        """Return scores as `Predictor.predict` does."""
        ...


class Flavor(ABC):
    """Saves, loads and describes models of one framework."""

    name: ClassVar[str]
    Config: ClassVar[type[Spec]]
    """Hyper-parameters; the section of the train spec that carries the flavor's name."""
    collective: ClassVar[str]
    """"module:function" that trains data-parallel with this framework's own collectives."""
    workers_in_trial: ClassVar[bool] = False
    """Whether that trainer places its workers with the trial that starts them, and nowhere else."""
    local: ClassVar[str | None] = None
    """"module:function" that trains in the calling process; None where the framework has no such trainer."""
    duration: ClassVar[str] = "epochs"
    """The hyper-parameter that says how long to train; what is measured carries its singular."""
    mutable: ClassVar[tuple[str, ...]] = ()
    """Hyper-parameters that may change while a model trains, as population based training does."""
    packages: ClassVar[tuple[str, ...]]
    """Distributions whose versions belong into the lineage."""
    tolerance: ClassVar[float] = 1e-5
    """Largest difference between the predictions of a saved model and of the one in memory."""

    def check(self, config: Any) -> None:  # noqa: B027  most flavors have nothing to refuse
        """Refuse settings that cannot work here, before any data is read. Raises RaymillError."""

    def probe(self, config: Any, encoder: Encoder) -> None:  # noqa: B027
        """Refuse a model that cannot learn the encoder's target, before any worker starts.

        Raises:
            SpecError: a network of the user's that fails, or whose output does not fit the loss.
        """

    @abstractmethod
    def save(self, model: Any, directory: Path) -> None:
        """Write `model` into `directory`, in files that load without pickle."""

    def prepare_serving(  # noqa: B027  most flavors serve the files that they save
        self, model: Any, directory: Path, prove: Callable[[], None]
    ) -> None:
        """Add to `directory`, which `save` wrote, a form of `model` that answers faster.

        Args:
            prove: Loads the directory and raises Corrupt if it predicts otherwise than what `save` wrote.

        Raises:
            RaymillError: the configuration wants that form, and it cannot be made.
        """

    def resident_bytes(self, files: Mapping[str, int]) -> int:
        """Return about the bytes that a loaded model takes, from those of its files by name."""
        return sum(files.values())

    @abstractmethod
    def load(self, directory: Path, encoder: Encoder) -> Predictor:
        """Return the model of `directory`, ready to predict.

        Raises:
            Corrupt: the files are not what this flavor writes.
        """
