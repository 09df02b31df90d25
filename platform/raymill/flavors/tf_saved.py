"""Writing and reading the SavedModel of a learner: raw columns in, scores out, no Python in between."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from raymill.columns import FittedColumn
from raymill.errors import Corrupt
from raymill.flavors.tf_flavor import ENCODED
from raymill.flavors.tf_learner import TFLearner, activate

# N = rows, W = width of a vector

MODEL_FILE = "saved_model.pb"
NULLABLE_WHOLE = "float64"  # what holds NaN for null where the column's own dtype cannot; whole to 2**53
_FORBIDDEN = ("PyFunc", "EagerPyFunc", "PyFuncStateless", "ReadFile", "WriteFile", "MatchingFiles")
"""Operations that run Python or reach for files. A SavedModel of ours needs none of them."""


def input_spec(column: FittedColumn) -> Any:
    """Return the tensor that holds a raw column: [rows], or [rows, width] for vectors.

    Nulls are NaN; whole numbers and booleans that may be null come as float64, whole as far as 2**53.
    Nullable categories need no null: text or a number outside the vocabulary says the same.
    """
    dtype = column.dtype
    if column.kind == "numeric" and column.nullable and not dtype.startswith("float"):
        dtype = NULLABLE_WHOLE
    shape = [None] if column.width == 1 else [None, column.width]
    return tf.TensorSpec(shape, tf.as_dtype(dtype), name=column.name)


class Served(tf.Module):  # type: ignore[misc]
    """What is saved: lookups, null policies and the network, as graphs."""

    def __init__(self, learner: TFLearner) -> None:
        super().__init__()
        self.network = learner.plain()
        self.learned = list(self.network.trainable_variables)
        self._encoder, self._task = learner.encoder, learner.task
        self._output = learner.encoder.signature().outputs[0].name
        self.tables = {column.name: _table(column) for column in learner.encoder.categorical}

    def encoded(self, numeric: Any, codes: Any) -> dict[str, Any]:
        scores = activate(self._task, self.network([numeric, codes], training=False))
        return {self._output: scores}

    def serve(self, **columns: Any) -> dict[str, Any]:
        """Return scores of raw columns."""
        rows = tf.shape(next(iter(columns.values())))[0]
        numeric, codes = [tf.zeros((rows, 0))], [tf.zeros((rows, 0), tf.int32)]
        for column in self._encoder.columns:
            value = columns[column.name]
            if column.kind == "numeric":
                numeric.append(tf.reshape(_number(column, value), [rows, column.width]))
            else:
                wide = value if column.dtype == "string" else tf.cast(value, tf.int64)
                codes.append(self.tables[column.name].lookup(wide)[:, tf.newaxis])
        return self.encoded(tf.concat(numeric, axis=1), tf.concat(codes, axis=1))


def write(learner: TFLearner, directory: Path) -> None:
    """Write the SavedModel of a learner, at the root of `directory`."""
    served, encoder = Served(learner), learner.encoder
    raw = tf.function(served.serve).get_concrete_function(
        **{column.name: input_spec(column) for column in encoder.columns}
    )
    encoded = tf.function(served.encoded).get_concrete_function(
        tf.TensorSpec([None, len(encoder.numeric)], tf.float32, name="numeric"),
        tf.TensorSpec([None, len(encoder.categorical)], tf.int32, name="codes"),
    )
    tf.saved_model.save(served, str(directory), signatures={"serving_default": raw, ENCODED: encoded})
    (directory / "fingerprint.pb").unlink(missing_ok=True)  # the manifest's hashes say more
    refuse_unsafe(directory)


def read_weights(loaded: Any) -> dict[str, np.ndarray]:
    """Return the learned arrays of a loaded SavedModel, in the names of `TFLearner.weights`."""
    values = list(loaded.learned)
    names = [value.name.rpartition("/")[2].partition(":")[0] for value in values]
    return {f"{i}.{name}": value.numpy() for i, (name, value) in enumerate(zip(names, values, strict=True))}


def refuse_unsafe(directory: Path) -> None:
    """Refuse a SavedModel with operations that run Python or reach for files.

    Raises:
        Corrupt: no SavedModel, or one with such an operation, which is named.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    path = directory / MODEL_FILE
    document = saved_model_pb2.SavedModel()
    try:
        document.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's own error, or the file is not there
        raise Corrupt(f"{path} is not a SavedModel: {error!r:.300}") from error
    if not document.meta_graphs:
        raise Corrupt(f"{path} is not a SavedModel: it holds no graph")
    for graph in document.meta_graphs:
        functions = itertools.chain.from_iterable(f.node_def for f in graph.graph_def.library.function)
        for node in itertools.chain(graph.graph_def.node, functions):
            if node.op in _FORBIDDEN:
                raise Corrupt(
                    f"{path} holds operation {node.op}, which runs Python or reaches for files; refused: "
                    "publish the model again with Raymill"
                )


def _table(column: FittedColumn) -> Any:
    """Return the lookup of a column's codes: 0 for what is not in its vocabulary."""
    kind = tf.string if column.dtype == "string" else tf.int64
    codes: Mapping[Any, int] = column.codes
    keys = tf.constant(list(codes), kind)
    values = tf.constant(list(codes.values()), tf.int32)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), default_value=0)


def _number(column: FittedColumn, value: Any) -> Any:
    """Return float32 numbers of a raw numeric column, NaN for an open null, as the encoder does."""
    if column.origin_us is not None:
        since = tf.cast(value - tf.cast(column.origin_us, value.dtype), tf.float64)
        return tf.cast(since * 1e-6, tf.float32)
    number = tf.cast(value, tf.float32)
    if not column.nullable:
        if value.dtype.is_floating:
            message = f"input '{column.name}' holds a null or an infinite number, and has no null policy"
            with tf.control_dependencies([tf.debugging.assert_all_finite(number, message)]):
                return tf.identity(number)
        return number
    return tf.where(tf.math.is_nan(number), tf.constant(column.fill, tf.float32), number)
