"""The built-in Keras networks: the same as torch's, layer by layer.

They are called with [numeric_NF, codes_NC], encoded rows: float32 with NaN for nulls, and int32.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from raymill.config import parse
from raymill.features import Encoder
from raymill.flavors.networks import STANDARDISED_LIMIT, Build, embedding_size, image_places
from raymill.flavors.options import CnnOptions, GradientOptions

# N = rows, F = numeric columns, I = numeric columns that may be null, D = width of the prepared row

MIXED = "mixed_bfloat16"


class PreparedRows(keras.layers.Layer):  # type: ignore[misc]
    """float32 [N, D] of encoded rows: standardised numbers, indicators of nulls, embeddings."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(dtype="float32")
        numeric = encoder.numeric
        self._mean_F = np.array([column.mean for column in numeric], np.float32)
        self._scale_F = np.array([1.0 / column.std for column in numeric], np.float32)
        nullable = [j for j, column in enumerate(numeric) if column.nulls == "mean"]
        self._nullable_I = np.array(nullable, np.int32)
        sizes = [len(column.vocabulary) + 1 for column in encoder.categorical]
        self.embeddings = [
            keras.layers.Embedding(
                size, embedding_size(size), keras.initializers.RandomNormal(stddev=0.05), dtype="float32"
            )
            for size in sizes
        ]
        for embedding in self.embeddings:
            embedding.build()
            table = embedding.embeddings
            table.assign(np.concatenate([np.zeros((1, table.shape[1]), np.float32), table.numpy()[1:]]))

    def call(self, inputs: list[Any]) -> Any:
        numeric_NF, codes_NC = inputs
        missing_NF = tf.math.is_nan(numeric_NF)
        standard_NF = (numeric_NF - self._mean_F) * self._scale_F
        standard_NF = tf.clip_by_value(standard_NF, -STANDARDISED_LIMIT, STANDARDISED_LIMIT)
        standard_NF = tf.where(missing_NF, tf.zeros_like(standard_NF), standard_NF)
        parts = [standard_NF, tf.gather(tf.cast(missing_NF, tf.float32), self._nullable_I, axis=1)]
        parts += [embed(codes_NC[:, j]) for j, embed in enumerate(self.embeddings)]
        return tf.concat(parts, axis=1)


class TabularMLP(keras.Model):  # type: ignore[misc]
    """Logits [N, outputs] of encoded rows."""

    def __init__(self, encoder: Encoder, options: GradientOptions) -> None:
        super().__init__(dtype="float32")  # or raw numbers would be rounded before they are standardised
        self.policy = MIXED if options.precision == "bfloat16" else "float32"
        self.prepare = PreparedRows(encoder)
        layers: list[Any] = []
        for units in options.hidden:
            layers.append(keras.layers.Dense(units, "relu", dtype=self.policy))
            if options.dropout:
                layers.append(keras.layers.Dropout(options.dropout, dtype=self.policy))
        layers.append(keras.layers.Dense(encoder.scores_per_row, dtype=self.policy))
        self.dense = layers

    def call(self, inputs: list[Any], training: bool = False) -> Any:
        return self.head(self.prepare(inputs), training)

    def head(self, row_ND: Any, training: bool) -> Any:
        for layer in self.dense:
            row_ND = layer(row_ND, training=training)
        return tf.cast(row_ND, tf.float32)


class ImageCNN(TabularMLP):
    """Convolutions over each fixed-size list column as an image, dense layers over them and all else."""

    def __init__(self, encoder: Encoder, options: GradientOptions) -> None:
        super().__init__(encoder, options)
        settings = parse(CnnOptions, options.options)
        self._places = image_places(encoder)
        self._shapes = [settings.image_shape(name, span.stop - span.start) for name, span in self._places]
        self.towers = [self._tower(settings) for _ in self._places]

    def _tower(self, settings: CnnOptions) -> list[Any]:
        layers: list[Any] = []
        for channels in settings.channels:
            layers.append(
                keras.layers.Conv2D(
                    channels, settings.kernel, padding="same", activation="relu", dtype=self.policy
                )
            )
            layers.append(keras.layers.MaxPooling2D(2, dtype=self.policy))
        return [*layers, keras.layers.Flatten(dtype=self.policy)]

    def call(self, inputs: list[Any], training: bool = False) -> Any:
        row_ND = self.prepare(inputs)
        parts, start = [], 0
        for (_, span), shape, tower in zip(self._places, self._shapes, self.towers, strict=True):
            parts.append(row_ND[:, start : span.start])
            image = tf.reshape(row_ND[:, span], [-1, *shape])
            for layer in tower:
                image = layer(image)
            parts.append(tf.cast(image, tf.float32))
            start = span.stop
        return self.head(tf.concat([*parts, row_ND[:, start:]], axis=1), training)


NETWORKS: dict[str, Build] = {"mlp": TabularMLP, "cnn": ImageCNN}
