"""TensorFlow models, kept as SavedModels at the version's root, the layout that TF Serving reads.

`serving_default` takes raw columns and does what the encoder does, inside the graph; `encoded` takes
what the encoder makes. Both are the same network, so a plain `tf.saved_model.load` answers as we do.
"""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import model_validator

from raymill.errors import Corrupt, needs_extra
from raymill.features import Encoder, Features
from raymill.flavors.base import Flavor, Predictor
from raymill.flavors.networks import own_network
from raymill.flavors.options import BUILT_IN, GradientOptions

ENCODED = "encoded"
FILES = ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001")


class TFConfig(GradientOptions):
    """The network and its training."""

    @model_validator(mode="after")
    def _honoured(self) -> TFConfig:
        if self.compile:
            raise ValueError(
                "compile is torch's; flavor tensorflow always runs its steps as compiled graphs: leave it out"
            )
        if self.precision != "float32" and self.network not in BUILT_IN:
            raise ValueError(
                f"precision {self.precision} is set for built-in networks only, and {self.network} sets its "
                "layers' dtypes itself (keras.DTypePolicy): leave it out"
            )
        return self


def _distribution() -> str:
    """Return the distribution that holds TensorFlow here: one of several builds of the same."""
    names = ("tensorflow", "tensorflow-cpu")
    return next((name for name in names if any(metadata.distributions(name=name))), names[-1])


class TFFlavor(Flavor):
    """Saves a learner's network as a SavedModel, loads it back for the CPU."""

    name = "tensorflow"
    Config = TFConfig
    collective = "raymill.train.tf_ddp:fit"
    local = "raymill.train.tf_local:fit"
    packages = (_distribution(), "keras")

    def check(self, config: Any) -> None:
        own_network(config)

    def probe(self, config: Any, encoder: Encoder) -> None:
        if config.network == "mlp":
            return  # fits every encoder; importing TensorFlow here would delay the workers
        load_tensorflow()
        from raymill.flavors.tf_learner import TFLearner

        TFLearner(encoder, config, seed=0)  # refuses what does not fit

    def save(self, model: Any, directory: Path) -> None:
        """Write `model`, a TFLearner."""
        from raymill.flavors.tf_saved import write

        write(model, directory)

    def load(self, directory: Path, encoder: Encoder) -> Predictor:
        tf = load_tensorflow()
        from raymill.flavors.tf_saved import refuse_unsafe

        refuse_unsafe(directory)
        try:
            loaded = tf.saved_model.load(str(directory))
            return TFPredictor(loaded, loaded.signatures[ENCODED], encoder)
        except Exception as error:  # of a dozen types; all mean that these files are no model
            raise Corrupt(
                f"{directory} with {', '.join(FILES)} is not a SavedModel of this flavor: {error!r:.300}"
            ) from error

    def weights(self, directory: Path) -> dict[str, np.ndarray]:
        """Return the learned arrays of a saved model, in the names of its learner's `weights`.

        Raises:
            Corrupt: the files are not what this flavor writes.
        """
        tf = load_tensorflow()
        from raymill.flavors.tf_saved import read_weights, refuse_unsafe

        refuse_unsafe(directory)
        try:
            return read_weights(tf.saved_model.load(str(directory)))
        except Exception as error:
            raise Corrupt(f"{directory} is not a SavedModel of this flavor: {error!r:.300}") from error


class TFPredictor:
    """Predicts encoded rows with a loaded SavedModel."""

    def __init__(self, loaded: Any, encoded: Any, encoder: Encoder) -> None:
        self._loaded = loaded  # owns the variables
        self._function = encoded
        self._output = encoder.signature().outputs[0].name

    def predict(self, features: Features) -> np.ndarray:
        import tensorflow as tf

        scores = self._function(
            numeric=tf.constant(features.numeric_NF), codes=tf.constant(features.codes_NC)
        )
        return np.asarray(scores[self._output].numpy(), np.float32)


def load_tensorflow() -> Any:
    """Import TensorFlow and Keras, without their greetings, and return TensorFlow.

    Raises:
        Unavailable: not installed; names the extra.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with needs_extra("tensorflow"):
        import keras  # noqa: F401
        import tensorflow as tf
    return tf
