"""Options that flavors share: the rate's course, early stopping, and what is refused at submission."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.config import parse
from raymill.errors import SpecError
from raymill.flavors import FLAVORS
from raymill.flavors.options import (
    Best,
    CnnOptions,
    EarlyStopping,
    GradientOptions,
    best_round,
    learning_rate,
)

GRADIENT_FLAVORS = ("tensorflow", "torch")


def rates(steps: int, **options: Any) -> list[float]:
    spec = GradientOptions(learning_rate=1.0, **options)
    return [learning_rate(spec, step, steps) for step in range(steps)]


def test_the_rate_rises_in_the_warm_up_and_ends_where_it_was_told_to() -> None:
    assert rates(4) == [1.0] * 4
    assert rates(5, schedule="linear") == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    cosine = rates(101, schedule="cosine", final_rate=0.1)
    assert (cosine[0], cosine[50], cosine[100]) == pytest.approx((1.0, 0.55, 0.1))
    warm = rates(100, schedule="cosine", warmup=0.1)
    assert warm[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert warm[10] == 1.0
    assert warm[-1] == pytest.approx(0.0)


@given(
    st.integers(1, 500),
    st.sampled_from(["constant", "linear", "cosine"]),
    st.floats(0, 0.99),
    st.floats(0, 1),
)
def test_the_rate_stays_positive_up_to_its_peak_and_never_rises_after_it(
    steps: int, schedule: str, warmup: float, final: float
) -> None:
    final = 0.0 if schedule == "constant" else final
    found = rates(steps, schedule=schedule, warmup=warmup, final_rate=final)
    assert all(0 <= rate <= 1 for rate in found)
    warm = math.ceil(warmup * steps)
    assert all(a >= b - 1e-12 for a, b in zip(found[warm:], found[warm + 1 :], strict=False))


def test_steps_beyond_the_plan_keep_the_last_rate() -> None:
    """A run that is continued with fewer rows than were planned for must not leave the curve."""
    spec = GradientOptions(learning_rate=1.0, schedule="linear", final_rate=0.2)
    assert learning_rate(spec, 10_000, 10) == pytest.approx(0.2)


def test_early_stopping_knows_which_way_is_better_and_what_counts() -> None:
    best = Best(EarlyStopping(patience=2, min_delta=0.01), "binary")
    assert [best.take({"validation_auc": v}) for v in (0.7, 0.705, 0.72)] == [True, False, True]
    assert not best.is_over
    assert [best.take({"validation_auc": v}) for v in (0.71, 0.725)] == [False, False]
    assert best.is_over
    error = Best(EarlyStopping(metric="rmse"), "regression")
    assert [error.take({"validation_rmse": v}) for v in (2.0, 3.0, 1.0)] == [True, False, True]


def test_early_stopping_goes_on_from_its_state() -> None:
    best, again = (Best(EarlyStopping(patience=2), "binary") for _ in range(2))
    for value in (0.9, 0.8):
        best.take({"validation_auc": value})
    again.load(best.state())
    assert not again.take({"validation_auc": 0.85})
    assert again.is_over


def test_the_best_round_is_the_first_of_equals() -> None:
    history = [{"round": float(r), "validation_auc": v} for r, v in ((10, 0.6), (20, 0.8), (30, 0.8))]
    assert best_round(EarlyStopping(), "binary", history) == 20
    assert best_round(None, "binary", history) is None


NONSENSE: dict[str, tuple[dict[str, Any], str]] = {
    "patience": ({"early_stopping": {"patience": 0}}, "early_stopping.patience"),
    "metric": ({"early_stopping": {"metric": "acc"}}, "auc, accuracy"),
    "delta": ({"early_stopping": {"min_delta": -1}}, "min_delta"),
    "network": ({"network": "resnet"}, "mlp, cnn, or the Python path module:callable"),
    "options of mlp": ({"options": {"depth": 3}}, "unknown key 'depth'"),
    "options of cnn": ({"network": "cnn", "options": {"chanels": [3]}}, "Did you mean 'channels'"),
    "momentum": ({"momentum": 0.9}, "optimizer sgd"),
    "final rate": ({"final_rate": 0.1}, "linear or cosine"),
    "schedule": ({"schedule": "step"}, "cosine"),
    "clip": ({"clip_norm": 0}, "clip_norm"),
    "precision": ({"precision": "float16"}, "bfloat16"),
}


@pytest.mark.parametrize("flavor", GRADIENT_FLAVORS)
@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_is_refused_when_the_spec_is_read(flavor: str, case: str) -> None:
    section, words = NONSENSE[case]
    with pytest.raises(SpecError, match=words):
        parse(FLAVORS.load(flavor).Config, section)


def test_a_metric_of_another_task_is_refused() -> None:
    with pytest.raises(SpecError, match="'auc' is no metric of task regression; have: rmse, mae"):
        EarlyStopping(metric="auc").metric_of("regression")


@pytest.mark.parametrize(
    ("section", "words"),
    [({"compile": True}, "torch's"), ({"precision": "bfloat16", "network": "a:b"}, "built-in networks only")],
)
def test_what_tensorflow_cannot_honour_is_refused(section: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        parse(FLAVORS.load("tensorflow").Config, section)


def test_images_must_be_what_they_are_said_to_be() -> None:
    assert CnnOptions().image_shape("pixels", 64) == (8, 8, 1)
    assert CnnOptions(shape=(4, 8, 2)).image_shape("pixels", 64) == (4, 8, 2)
    with pytest.raises(SpecError, match="'pixels' holds 63 numbers"):
        CnnOptions().image_shape("pixels", 63)
    with pytest.raises(SpecError, match="to nothing"):
        CnnOptions(channels=(1, 1, 1, 1)).image_shape("pixels", 64)
