"""What every learner must do, so that any strategy can spread it over workers."""

from __future__ import annotations

import numpy as np
import pytest
from recipes import LEARNER_RECIPES, TASKS, encoded

GLOBAL_ROWS = 240


@pytest.fixture(params=[(name, task) for name in LEARNER_RECIPES for task in TASKS], ids="-".join)
def case(request):
    name, task = request.param
    fitted, features, labels_N = encoded(task)
    return lambda: LEARNER_RECIPES[name](fitted), fitted, features, labels_N


def parts(features, labels_N, edges):
    for low, high in zip([0, *edges], [*edges, len(labels_N)], strict=True):
        yield features.take(slice(low, high)), labels_N[low:high]


def assert_close(a, b, tolerance=1e-6):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=tolerance, err_msg=name)


def test_equal_seeds_give_equal_learners(case):
    make, *_ = case
    first, second = make().weights(), make().weights()
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)


def test_gradients_of_parts_add_up_to_those_of_the_whole(case):
    make, _, features, labels_N = case
    learner = make()
    loss, whole = learner.gradients(features, labels_N, GLOBAL_ROWS)
    assert any(np.abs(gradient).max() > 1e-3 for gradient in whole.values())
    for edges in ([120], [1, 2, 239], [50, 50, 200]):
        found = [learner.gradients(*part, GLOBAL_ROWS) for part in parts(features, labels_N, edges)]
        total = {name: sum(gradient[name] for _, gradient in found) for name in whole}
        assert_close(total, whole)
        assert sum(part_loss for part_loss, _ in found) == pytest.approx(loss, rel=1e-4)


def test_no_rows_have_no_gradient_and_no_loss(case):
    make, fitted, _, labels_N = case
    learner = make()
    loss, gradients = learner.gradients(fitted.empty(0), labels_N[:0], GLOBAL_ROWS)
    assert loss == 0.0
    assert gradients.keys() == learner.weights().keys()
    assert all((gradient == 0).all() for gradient in gradients.values())


def test_a_row_that_counts_thrice_is_a_row_three_times(case):
    make, _, features, labels_N = case
    learner, rows = make(), np.array([0, 1, 1, 1, 2])
    repeated = learner.gradients(features.take(rows), labels_N[rows], GLOBAL_ROWS)
    few = features.take(slice(0, 3)), labels_N[:3]
    weighted = learner.gradients(*few, GLOBAL_ROWS, np.array([1, 3, 1], np.float32))
    assert weighted[0] == pytest.approx(repeated[0], rel=1e-5)
    assert_close(weighted[1], repeated[1])
    assert learner.gradients(*few, GLOBAL_ROWS)[0] != pytest.approx(repeated[0], rel=1e-3)


def test_gradients_are_the_slope_of_the_mean_loss(case):
    """Central differences along a random direction."""
    make, _, features, labels_N = case
    learner = make()
    weights = learner.weights()
    _, gradients = learner.gradients(features, labels_N, GLOBAL_ROWS)
    rng, step = np.random.default_rng(0), 1e-3
    direction = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in weights.items()}
    slope = sum(float((gradients[name] * direction[name]).sum()) for name in weights)
    losses = []
    for sign in (1, -1):
        learner.load_weights({name: weights[name] + sign * step * direction[name] for name in weights})
        losses.append(learner.gradients(features, labels_N, GLOBAL_ROWS)[0] / GLOBAL_ROWS)
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(slope, rel=0.1, abs=0.02)


def test_taking_gradients_changes_no_weight_and_leaves_nothing_behind(case):
    make, _, features, labels_N = case
    learner = make()
    before = learner.weights()
    _, first = learner.gradients(features, labels_N, GLOBAL_ROWS)
    _, second = learner.gradients(features, labels_N, GLOBAL_ROWS)
    assert_close(first, second, tolerance=0)
    assert_close(before, learner.weights(), tolerance=0)


def test_weights_go_round(case):
    make, _, features, labels_N = case
    learner, other = make(), make()
    learner.apply(learner.gradients(features, labels_N, GLOBAL_ROWS)[1])
    assert not np.allclose(learner.predict(features), other.predict(features), atol=1e-6)
    other.load_weights(learner.weights())
    np.testing.assert_array_equal(learner.predict(features), other.predict(features))


def test_weights_are_a_copy(case):
    make, _, features, _ = case
    learner = make()
    before = learner.predict(features)
    for value in learner.weights().values():
        value.fill(7)
    np.testing.assert_array_equal(before, learner.predict(features))


def test_workers_that_sum_gradients_take_the_step_that_one_would(case):
    make, _, features, labels_N = case
    alone, together = make(), make()
    for _ in range(3):
        alone.apply(alone.gradients(features, labels_N, GLOBAL_ROWS)[1])
        found = [together.gradients(*part, GLOBAL_ROWS)[1] for part in parts(features, labels_N, [80])]
        together.apply({name: sum(gradient[name] for gradient in found) for name in found[0]})
    for name, value in alone.weights().items():
        np.testing.assert_allclose(together.weights()[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_apply_is_one_step_of_the_optimiser(case):
    make, _, features, labels_N = case
    learner, plain = make(), make()
    learner.apply(learner.gradients(features, labels_N, GLOBAL_ROWS)[1])
    plain.step(features, labels_N, None, scale=1 / GLOBAL_ROWS, key=(0,))
    assert_close(learner.weights(), plain.weights())


def test_gradients_that_were_applied_stay_the_caller_s(case):
    """A strategy may keep them, for a retry or for another worker."""
    make, _, features, labels_N = case
    learner = make()
    _, gradients = learner.gradients(features, labels_N, GLOBAL_ROWS)
    kept = {name: value.copy() for name, value in gradients.items()}
    learner.apply(gradients)
    learner.gradients(features, labels_N, GLOBAL_ROWS)
    assert all((gradients[name] == kept[name]).all() for name in kept)


def test_steps_bring_the_loss_down(case):
    make, _, features, labels_N = case
    learner = make()
    losses = []
    for _ in range(30):
        loss, gradients = learner.gradients(features, labels_N, GLOBAL_ROWS)
        learner.apply(gradients)
        losses.append(loss)
    assert losses[-1] < 0.8 * losses[0]


def test_predicting_leaves_training_as_it_was(case):
    make, _, features, labels_N = case
    learner, other = make(), make()
    learner.predict(features)
    assert_close(
        learner.gradients(features, labels_N, GLOBAL_ROWS)[1],
        other.gradients(features, labels_N, GLOBAL_ROWS)[1],
        tolerance=0,
    )
