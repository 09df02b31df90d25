"""What is TensorFlow's alone: the saved model takes raw columns without any of our code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from recipes import FLAVOR_RECIPES, TASKS, encoded, encoder, table

from raymill.data import Loader, LoaderConfig, take_snapshot
from raymill.errors import Corrupt
from raymill.flavors import FLAVORS

RAW = {
    "x": lambda values: np.array([np.nan if v is None else v for v in values], np.float32),
    "z": lambda values: np.array(values, np.int16),
    "flag": lambda values: np.array([np.nan if v is None else v for v in values], np.float64),
    "word": lambda values: ["no such word" if v is None else v for v in values],
    "code": lambda values: np.array(values, np.int64),
}
"""Column to how a caller of the SavedModel writes its values: NaN is null."""


@pytest.fixture(scope="module", params=TASKS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    flavor = FLAVORS.load("tensorflow")()
    fitted, features, labels_N = encoded(request.param)
    directory = tmp_path_factory.mktemp(f"saved-{request.param}")
    flavor.save(FLAVOR_RECIPES["tensorflow"][0](fitted, features, labels_N), directory)
    return flavor, fitted, directory, flavor.load(directory, fitted).predict(features)


def test_plain_tensorflow_answers_raw_columns_as_we_do(saved: Any) -> None:
    import tensorflow as tf

    _, fitted, directory, ours = saved
    serve = tf.saved_model.load(str(directory)).signatures["serving_default"]
    rows = table().select(fitted.names).to_pydict()
    found = serve(**{name: tf.constant(RAW[name](values)) for name, values in rows.items()})
    output = fitted.signature().outputs[0].name
    assert list(found) == [output]
    np.testing.assert_allclose(found[output].numpy(), ours, atol=1e-6)


def test_the_loaders_batches_as_tensors_of_tensorflow(tmp_path: Path) -> None:
    import tensorflow as tf

    pq.write_table(table(), tmp_path / "part.parquet", row_group_size=5)
    loader = Loader(take_snapshot(tmp_path), encoder("binary"), LoaderConfig(batch_rows=4))
    for batch in loader.epoch(0):
        tensors = batch.as_tensorflow()
        assert (tensors.numeric.dtype, tensors.codes.dtype) == (tf.float32, tf.int32)
        assert (len(tensors), tensors.step, tensors.global_rows) == (
            len(batch),
            batch.step,
            batch.global_rows,
        )
        np.testing.assert_array_equal(tensors.numeric, batch.features.numeric_NF)
        np.testing.assert_array_equal(tensors.codes, batch.features.codes_NC)
        np.testing.assert_array_equal(tensors.labels, batch.labels_N)


def test_serving_default_has_the_names_and_shapes_of_the_signature(saved: Any) -> None:
    import tensorflow as tf

    _, fitted, directory, _ = saved
    serve = tf.saved_model.load(str(directory)).signatures["serving_default"]
    specs = serve.structured_input_signature[1]
    assert set(specs) == set(fitted.names)
    assert all(spec.shape.as_list() == [None] for spec in specs.values())
    assert {name: spec.dtype.name for name, spec in specs.items()} == {
        "x": "float32", "z": "int16", "flag": "float64", "word": "string", "code": "int64"
    }  # fmt: skip


def test_a_null_without_a_policy_is_refused_by_the_saved_model_too(saved: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    fitted = encoder("binary")
    columns = [c.model_copy(update={"nulls": "error"}) if c.name == "x" else c for c in fitted.columns]
    strict = fitted.model_copy(update={"columns": tuple(columns)})
    strict = type(fitted).model_validate(strict.model_dump())
    rows = table().drop_columns(["x"]).append_column("x", [np.ones(240, np.float32)])
    model = FLAVOR_RECIPES["tensorflow"][0](
        strict, strict.encode_table(rows), strict.encode_labels(rows.column("binary"))
    )
    saved[0].save(model, tmp_path)
    serve = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    values = {name: RAW[name](rows.column(name).to_pylist()[:2]) for name in strict.names}
    serve(**{name: tf.constant(value) for name, value in values.items()})
    values["x"][1] = np.nan
    with pytest.raises(tf.errors.InvalidArgumentError, match="'x' holds a null"):
        serve(**{name: tf.constant(value) for name, value in values.items()})


def test_a_saved_model_that_reads_files_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    class Spy(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
        def read(self, path: Any) -> Any:
            return tf.io.read_file(path)

    tf.saved_model.save(Spy(), str(tmp_path))
    with pytest.raises(Corrupt, match="operation ReadFile"):
        FLAVORS.load("tensorflow")().load(tmp_path, encoder("binary"))


def test_a_run_can_continue_from_the_saved_weights(saved: Any) -> None:
    flavor, fitted, directory, ours = saved
    from recipes import LEARNER_RECIPES

    learner = LEARNER_RECIPES["tensorflow"](fitted)
    learner.load_weights(flavor.weights(directory))
    np.testing.assert_allclose(learner.predict(fitted.encode_table(table())), ours, atol=1e-6)
