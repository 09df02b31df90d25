"""A Keras network that learns, in compiled graphs of our own: what the strategies hold on each worker.

`keras.Model.fit` under TensorFlow's multi-worker strategy fails with Keras 3 (docs/decisions/0020), so
a step is one graph here: gradients, their mean over all workers, clipping, the optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from raymill.errors import Conflict, SpecError
from raymill.features import Encoder, Features
from raymill.flavors.networks import check_output, make_network
from raymill.flavors.options import learning_rate
from raymill.flavors.tf_flavor import TFConfig
from raymill.flavors.tf_networks import NETWORKS

PREDICT_ROWS = 16_384  # rows a forward pass takes at once when predicting, to bound memory
STATE_FILE = "weights.npz"


def _identity(flat: Any) -> Any:
    return flat


class TFLearner:
    """Implements `Learner` and the training loop's `StepLearner`."""

    def __init__(self, encoder: Encoder, config: TFConfig, *, seed: int) -> None:
        self.encoder, self.config, self.task = encoder, config, encoder.task
        self.network = self._make(config, seed)
        self.reduce: Callable[[Any], Any] = _identity
        """Averages a flat float32 tensor over all workers, inside a graph."""
        self._names = [f"{i}.{value.name}" for i, value in enumerate(self.network.trainable_variables)]
        self.optimizer = _optimizer(config)
        self.optimizer.build(self.network.trainable_variables)
        self._plain = self.network
        if config.precision != "float32":  # what predicts and is published computes in float32
            self._plain = self._make(config.model_copy(update={"precision": "float32"}), seed)
        self._draws = [
            value for value in self.network.variables if value.path.endswith("seed_generator_state")
        ]
        self.step_number, self.steps = 0, 1
        self._graphs()

    def _make(self, config: TFConfig, seed: int) -> Any:
        keras.utils.set_random_seed(seed)  # equal initial weights on every worker
        network = make_network(NETWORKS, self.encoder, config)
        if not isinstance(network, keras.Layer):
            raise SpecError(
                f"network {config.network!r} is a {type(network).__name__}, no keras.Model or Layer"
            )
        try:
            self._found = network(list(self._zeros(2)), training=False)
        except Exception as error:
            raise SpecError(f"network {config.network!r} fails on two rows: {error!r:.500}") from error
        check_output(config, self.encoder, 2, getattr(self._found, "shape", None))
        return network

    def _zeros(self, rows: int) -> tuple[Any, Any]:
        columns = self.encoder
        return tf.zeros((rows, len(columns.numeric))), tf.zeros((rows, len(columns.categorical)), tf.int32)

    def plan(self, steps: int) -> None:
        """Say how many optimiser steps there will be in all; the schedule of the rate follows from it."""
        self.steps = steps

    def _graphs(self) -> None:
        rows = [
            tf.TensorSpec([None, len(self.encoder.numeric)], tf.float32),
            tf.TensorSpec([None, len(self.encoder.categorical)], tf.int32),
        ]
        labels = tf.TensorSpec([None], tf.int64 if self.task == "multiclass" else tf.float32)
        flat, number = tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.float32)
        self._gradients_graph = tf.function(self._summed, input_signature=[*rows, labels, flat, number])
        self._apply_graph = tf.function(self._update, input_signature=[flat])
        self._step_graph = tf.function(self._step, input_signature=[*rows, labels, flat, number])
        self._scores_graph = tf.function(
            lambda numeric_NF, codes_NC: activate(
                self.task, self._plain([numeric_NF, codes_NC], training=False)
            ),
            input_signature=rows,
        )

    def _summed(
        self, numeric_NF: Any, codes_NC: Any, labels_N: Any, weights_N: Any, scale: Any
    ) -> tuple[Any, Any]:
        """Return the summed loss and the flat gradient of `scale` times it."""
        with tf.GradientTape() as tape:
            logits = tf.cast(self.network([numeric_NF, codes_NC], training=True), tf.float32)
            loss = tf.reduce_sum(row_losses(self.task, logits, labels_N) * weights_N)
            scaled = loss * scale
        found = tape.gradient(
            scaled, self.network.trainable_variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return loss, tf.concat([tf.reshape(tf.convert_to_tensor(part), [-1]) for part in found], axis=0)

    def _step(self, numeric_NF: Any, codes_NC: Any, labels_N: Any, weights_N: Any, scale: Any) -> Any:
        rows, parts = tf.shape(labels_N)[0], self.config.accumulate
        total, flat = tf.zeros([]), None
        for i in range(parts):
            span = slice(rows * i // parts, rows * (i + 1) // parts)
            loss, found = self._summed(
                numeric_NF[span], codes_NC[span], labels_N[span], weights_N[span], scale
            )
            total, flat = total + loss, found if flat is None else flat + found
        self._update(self.reduce(flat))
        return total

    def _update(self, flat: Any) -> None:
        """Step the optimiser along a flat gradient of the global batch's mean loss."""
        if self.config.clip_norm is not None:
            flat = tf.clip_by_norm(flat, self.config.clip_norm)
        variables = self.network.trainable_variables
        sizes = [int(np.prod(value.shape)) for value in variables]
        decay = 0.0 if self.config.optimizer == "adamw" else self.config.weight_decay
        self.optimizer.apply(
            [
                tf.reshape(part, value.shape) + decay * value
                for part, value in zip(tf.split(flat, sizes), variables, strict=True)
            ]
        )

    def _set_rate(self) -> None:
        self.optimizer.learning_rate.assign(learning_rate(self.config, self.step_number, self.steps))
        self.step_number += 1

    def step(
        self,
        features: Features,
        labels_N: np.ndarray,
        weights_N: np.ndarray | None,
        *,
        scale: float,
        key: tuple[int, ...],
    ) -> float:
        """Take one optimiser step with all workers of `reduce`; return the summed loss of these rows."""
        for i, state in enumerate(self._draws):  # by position: a resumed run drops what it would have dropped
            state.assign(np.random.SeedSequence([*key, i]).generate_state(2))
        self._set_rate()
        return float(self._step_graph(*self._tensors(features, labels_N, weights_N), tf.constant(scale)))

    def gradients(
        self,
        features: Features,
        labels_N: np.ndarray,
        global_rows: int,
        weights_N: np.ndarray | None = None,
    ) -> tuple[float, dict[str, np.ndarray]]:
        loss, flat = self._gradients_graph(
            *self._tensors(features, labels_N, weights_N), tf.constant(1.0 / global_rows)
        )
        ends = np.cumsum([int(np.prod(value.shape)) for value in self.network.trainable_variables])
        parts = np.split(flat.numpy(), ends[:-1])
        variables = self.network.trainable_variables
        shaped = [part.reshape(value.shape) for value, part in zip(variables, parts, strict=True)]
        return float(loss), dict(zip(self._names, shaped, strict=True))

    def apply(self, gradients: Mapping[str, np.ndarray]) -> None:
        flat = [np.ravel(gradients[name]) for name in self._names]
        self._set_rate()
        self._apply_graph(tf.constant(np.concatenate(flat), tf.float32))

    def weights(self) -> dict[str, np.ndarray]:
        values = [np.array(value.numpy()) for value in self.network.trainable_variables]
        return dict(zip(self._names, values, strict=True))

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        for name, value in zip(self._names, self.network.trainable_variables, strict=True):
            value.assign(np.asarray(weights[name]))

    def is_finite(self) -> bool:
        """Return whether every weight is a finite number."""
        return all(bool(np.isfinite(value.numpy()).all()) for value in self.network.trainable_variables)

    def _state(self) -> dict[str, Any]:
        state = {f"network/{i}": value for i, value in enumerate(self.network.weights)}
        return state | {f"optimizer/{i}": value for i, value in enumerate(self.optimizer.variables)}

    def freeze(self) -> Callable[[Path], None]:
        """Return a writer of weights and optimiser as they are now; it may run in another thread."""
        copied = {name: np.array(value.numpy()) for name, value in self._state().items()}
        copied["step"] = np.array(self.step_number)
        return lambda directory: np.savez(directory / STATE_FILE, **copied)  # type: ignore[arg-type]

    def restore(self, directory: Path) -> None:
        """Take over what `freeze` wrote. Raises Conflict for another network's state."""
        with np.load(directory / STATE_FILE, allow_pickle=False) as stored:
            state = self._state()
            found = {name: stored[name].shape for name in stored.files if name != "step"}
            wanted = {name: tuple(value.shape) for name, value in state.items()}
            if found != wanted:
                raise Conflict(
                    f"the checkpoint is of another network or optimizer: {len(found)} arrays, not the "
                    f"{len(wanted)} of flavors.tensorflow; start a new run, or keep it as it was"
                )
            for name, value in state.items():
                value.assign(stored[name])
            self.step_number = int(stored["step"])

    def plain(self) -> Any:
        """Return the network in float32 with the weights of now: what predicts and is published."""
        if self._plain is not self.network:
            self._plain.set_weights(self.network.get_weights())
        return self._plain

    def predict(self, features: Features) -> np.ndarray:
        self.plain()
        parts = []
        for i in range(0, max(len(features), 1), PREDICT_ROWS):
            some = features.take(slice(i, i + PREDICT_ROWS))
            parts.append(self._scores_graph(some.numeric_NF, some.codes_NC).numpy())
        return np.concatenate(parts)

    def _tensors(
        self, features: Features, labels_N: np.ndarray, weights_N: np.ndarray | None
    ) -> tuple[Any, Any, Any, Any]:
        if weights_N is None:
            weights_N = np.ones(len(labels_N), np.float32)
        return (
            tf.constant(features.numeric_NF), tf.constant(features.codes_NC),
            tf.constant(labels_N), tf.constant(weights_N),
        )  # fmt: skip


def row_losses(task: str, logits: Any, labels_N: Any) -> Any:
    """Return each row's binary or categorical cross-entropy, or squared error."""
    if task == "multiclass":
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels_N, logits)
    logits_N = tf.reshape(logits, [-1])
    if task == "binary":
        return tf.nn.sigmoid_cross_entropy_with_logits(labels_N, logits_N)
    return tf.square(logits_N - labels_N)


def activate(task: str, logits: Any) -> Any:
    """Return float32 scores of logits: [N] chances, [N, classes] chances, or [N] predictions."""
    logits = tf.cast(logits, tf.float32)
    if task == "multiclass":
        return tf.nn.softmax(logits)
    logits_N = tf.reshape(logits, [-1])
    return tf.sigmoid(logits_N) if task == "binary" else logits_N


def _optimizer(config: TFConfig) -> Any:
    if config.optimizer == "sgd":
        return keras.optimizers.SGD(config.learning_rate, momentum=config.momentum)
    kind = keras.optimizers.AdamW if config.optimizer == "adamw" else keras.optimizers.Adam
    decay = {"weight_decay": config.weight_decay} if config.optimizer == "adamw" else {}
    return kind(config.learning_rate, epsilon=1e-8, **decay)
