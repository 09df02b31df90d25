"""Networks of the user's own and the built-in one for images, in every flavor that learns by gradients."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from recipes import encoded

from raymill.errors import SpecError
from raymill.features import Encoder, FittedColumn
from raymill.flavors import FLAVORS
from raymill.registry import import_target

TORCH = """
import torch

class Network(torch.nn.Module):
    def __init__(self, encoder, options):
        super().__init__()
        self.layer = torch.nn.Linear(len(encoder.numeric), options["outputs"])

    def forward(self, numeric, codes):
        return self.layer(torch.nan_to_num(numeric))
"""
TENSORFLOW = """
import keras

def Network(encoder, options):
    numeric, codes = keras.Input((len(encoder.numeric),)), keras.Input((len(encoder.categorical),))
    clean = keras.ops.nan_to_num(numeric)
    return keras.Model([numeric, codes], keras.layers.Dense(options["outputs"])(clean))
"""
SOURCES = {"torch": TORCH, "tensorflow": TENSORFLOW}
LEARNERS = {"torch": "torch_learner:TorchLearner", "tensorflow": "tf_learner:TFLearner"}


def learner_of(name: str, fitted: Encoder, **section: Any) -> Any:
    flavor = FLAVORS.load(name)
    if name == "tensorflow":
        import_target("raymill.flavors.tf_flavor:load_tensorflow")()
    return import_target(f"raymill.flavors.{LEARNERS[name]}")(fitted, flavor.Config(**section), seed=1)


@pytest.fixture(params=list(SOURCES))
def name(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A flavor, with a module of the user's on the path."""
    (tmp_path / f"own_{request.param}.py").write_text(SOURCES[request.param])
    monkeypatch.syspath_prepend(tmp_path)
    return str(request.param)


def test_a_network_of_one_s_own_learns_and_is_published_without_its_module(name: str, tmp_path: Path) -> None:
    fitted, features, labels_N = encoded("binary")
    learner = learner_of(
        name, fitted, network=f"own_{name}:Network", options={"outputs": 1}, learning_rate=0.1
    )
    losses = []
    for _ in range(20):
        loss, gradients = learner.gradients(features, labels_N, len(features))
        learner.apply(gradients)
        losses.append(loss)
    assert losses[-1] < losses[0]
    (tmp_path / "saved").mkdir()
    flavor = FLAVORS.load(name)()
    flavor.save(learner, tmp_path / "saved")
    loaded = flavor.load(tmp_path / "saved", fitted).predict(features)
    np.testing.assert_allclose(loaded, learner.predict(features), atol=1e-5)


@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        (
            "own_{}:Network",
            {"outputs": 2},
            r"shape \[2, 2\] for 2 rows; the loss of task binary needs a score",
        ),
        ("own_{}:Network", {}, "could not be made with options .*outputs"),
        ("own_{}:Netwrk", {"outputs": 1}, "has no 'Netwrk'. Did you mean 'Network'"),
        ("nowhere_{}:Network", {"outputs": 1}, "no module 'nowhere_.*ship it in the job's working directory"),
    ],
)
def test_a_network_that_cannot_work_is_refused_before_training(
    name: str, path: str, options: dict[str, Any], words: str
) -> None:
    fitted, *_ = encoded("binary")
    flavor = FLAVORS.load(name)()
    config = flavor.Config(network=path.format(name), options=options)

    def submit() -> None:
        flavor.check(config)
        flavor.probe(config, fitted)

    with pytest.raises(SpecError, match=words):
        submit()


def test_images_are_learned_from_their_place_in_the_row(name: str, tmp_path: Path) -> None:
    """Half of the images have a bright left edge; a number beside the image says nothing."""
    rng, rows = np.random.default_rng(3), 128
    pixels = rng.normal(size=(rows, 6, 6)).astype(np.float32)
    bright = rng.random(rows) < 0.5
    pixels[bright, :, 0] += 2
    shape = {"kind": "numeric", "dtype": "float32", "nulls": "error", "null_count": 0}
    fitted = Encoder(
        columns=(FittedColumn(name="x", **shape), FittedColumn(name="pixels", width=36, **shape)),
        target="bright", task="binary",
    )  # fmt: skip
    image = pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel()), 36)
    features = fitted.encode_table(pa.table({"x": np.zeros(rows, np.float32), "pixels": image}))
    options = {"channels": [4, 8]}
    learner = learner_of(name, fitted, network="cnn", options=options, hidden=(8,), learning_rate=0.02)
    labels_N = bright.astype(np.float32)
    for step in range(40):
        learner.step(features, labels_N, None, scale=1 / rows, key=(step,))
    assert ((learner.predict(features) > 0.5) == bright).mean() > 0.95
    flavor = FLAVORS.load(name)()
    flavor.save(learner, tmp_path)
    loaded = flavor.load(tmp_path, fitted).predict(features)
    np.testing.assert_allclose(loaded, learner.predict(features), atol=1e-5)


def test_a_table_without_images_is_refused(name: str) -> None:
    fitted, *_ = encoded("binary")
    flavor = FLAVORS.load(name)()
    with pytest.raises(SpecError, match="cnn needs a column of images"):
        flavor.probe(flavor.Config(network="cnn"), fitted)


@pytest.mark.parametrize(
    "section",
    [
        {"precision": "bfloat16"},
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "adam"},
        {"dropout": 0.3},
    ],
    ids=str,
)
def test_options_learn_and_are_published_as_they_predict(
    name: str, section: dict[str, Any], tmp_path: Path
) -> None:
    fitted, features, labels_N = encoded("binary")
    learner = learner_of(name, fitted, hidden=(8,), learning_rate=0.05, **section)
    losses = [
        learner.step(features, labels_N, None, scale=1 / len(features), key=(step,)) for step in range(25)
    ]
    assert losses[-1] < 0.9 * losses[0]
    flavor = FLAVORS.load(name)()
    flavor.save(learner, tmp_path)
    loaded = flavor.load(tmp_path, fitted).predict(features)
    np.testing.assert_allclose(loaded, learner.predict(features), atol=1e-5)


def test_a_step_in_parts_is_the_step_of_the_whole(name: str) -> None:
    fitted, features, labels_N = encoded("binary")
    ends = []
    for parts in (1, 3):
        learner = learner_of(name, fitted, hidden=(8,), accumulate=parts, clip_norm=0.1, optimizer="sgd")
        loss = learner.step(features, labels_N, None, scale=1 / len(features), key=(0,))
        ends.append((loss, learner.weights()))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-5)
    for key, value in ends[0][1].items():
        np.testing.assert_allclose(value, ends[1][1][key], atol=1e-6, err_msg=key)


def test_a_resumed_learner_goes_on_as_the_other_does(name: str, tmp_path: Path) -> None:
    """Weights, moments, the rate's place on its curve, and what dropout drops."""
    fitted, features, labels_N = encoded("binary")
    section: dict[str, Any] = {"hidden": (8,), "dropout": 0.3, "schedule": "cosine", "warmup": 0.2}
    first, again = (learner_of(name, fitted, **section) for _ in range(2))
    for learner in (first, again):
        learner.plan(10)

    def step(learner: Any, number: int) -> float:
        return float(learner.step(features, labels_N, None, scale=1 / len(features), key=(7, number)))

    for number in range(4):
        step(first, number)
    first.freeze()(tmp_path)
    again.restore(tmp_path)
    assert [step(first, n) for n in (4, 5, 6)] == [step(again, n) for n in (4, 5, 6)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPUs")
def test_a_compiled_network_takes_the_steps_of_the_other(tmp_path: Path) -> None:
    fitted, features, labels_N = encoded("binary")
    ends = []
    for compiled in (False, True):
        learner = learner_of("torch", fitted, hidden=(8,), compile=compiled, optimizer="sgd")
        losses = [
            learner.step(features.take(slice(0, rows)), labels_N[:rows], None, scale=1 / rows, key=(0,))
            for rows in (64, 64, 50)  # the last batch of an epoch is smaller
        ]
        ends.append((losses, learner.weights()))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-4)
    for key, value in ends[0][1].items():
        np.testing.assert_allclose(value, ends[1][1][key], atol=1e-5, err_msg=key)
