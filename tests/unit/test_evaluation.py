"""Metrics: exact against their definitions, and independent of how rows are spread over workers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.errors import DataError
from raymill.evaluation import HIGHER_IS_BETTER, PRIMARY_METRIC, auc, auc_from_counts, evaluate

scored_labels = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=60)


def arrays(pairs):
    scores, labels = zip(*pairs, strict=True)
    return np.array(scores) / 7, np.array(labels, np.float32)


def pair_count(scores, labels) -> float:
    """The definition: the chance that a positive scores above a negative, a tie counting half."""
    wins = [
        1.0 if positive > negative else 0.5 if positive == negative else 0.0
        for positive in scores[labels == 1]
        for negative in scores[labels == 0]
    ]
    return sum(wins) / len(wins) if wins else float("nan")


@given(scored_labels)
def test_auc_is_the_share_of_pairs_in_the_right_order(pairs):
    scores, labels = arrays(pairs)
    assert auc(scores, labels) == pytest.approx(pair_count(scores, labels), abs=1e-12, nan_ok=True)


@given(scored_labels, st.integers(1, 5))
def test_counts_of_shards_add_up_to_the_auc_of_the_whole(pairs, shards):
    scores, labels = arrays(pairs)
    unique = np.unique(scores)
    positives, negatives = np.zeros(len(unique)), np.zeros(len(unique))
    for shard in range(shards):
        mine = slice(shard, None, shards)
        where = np.searchsorted(unique, scores[mine])
        np.add.at(positives, where, labels[mine] == 1)
        np.add.at(negatives, where, labels[mine] == 0)
    assert auc_from_counts(positives, negatives) == pytest.approx(auc(scores, labels), abs=1e-12, nan_ok=True)


@given(scored_labels, st.randoms(use_true_random=False))
def test_auc_knows_no_order_of_rows(pairs, random):
    shuffled = list(pairs)
    random.shuffle(shuffled)
    assert auc(*arrays(shuffled)) == pytest.approx(auc(*arrays(pairs)), abs=1e-12, nan_ok=True)


def test_an_average_of_shards_would_be_wrong_and_ours_is_not():
    """Rule 5: each shard orders its own rows perfectly, and the whole does not."""
    scores, labels = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 1, 0, 1])
    assert auc(scores[:2], labels[:2]) == auc(scores[2:], labels[2:]) == 1.0
    assert auc(scores, labels) == 0.75


def test_auc_is_exact_where_pairs_overflow_32_bits():
    labels = np.arange(200_000) % 2
    assert auc(labels.astype(float), labels) == 1.0
    assert auc(1.0 - labels, labels) == 0.0


def test_one_class_has_no_auc():
    assert math.isnan(auc(np.array([0.1, 0.9]), np.ones(2)))


def test_binary_metrics_by_hand():
    found = evaluate("binary", np.array([0.9, 0.5, 0.2, 0.6], np.float32), np.array([1, 1, 0, 0]))
    assert found["auc"] == 0.75
    assert found["accuracy"] == 0.75  # 0.5 counts as positive
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.5, 0.8, 0.4]).mean(), rel=1e-6)


def test_certain_and_wrong_is_bad_but_finite():
    assert 15 < evaluate("binary", np.array([0.0, 1.0]), np.array([1, 0]))["log_loss"] < 17


def test_multiclass_metrics_by_hand():
    scores = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    found = evaluate("multiclass", scores, np.array([0, 1], np.int64))
    assert found == {"accuracy": 0.5, "log_loss": pytest.approx(-np.log([0.7, 0.3]).mean())}


def test_regression_metrics_by_hand():
    found = evaluate("regression", np.array([1.0, 2.0]), np.array([4.0, -2.0]))
    assert found == {"rmse": pytest.approx(math.sqrt(12.5)), "mae": 3.5}


@pytest.mark.parametrize("task", PRIMARY_METRIC)
def test_each_task_measures_its_primary_metric_and_says_which_way_is_better(task):
    scores = np.full((2, 2), 0.5) if task == "multiclass" else np.array([0.2, 0.8])
    found = evaluate(task, scores, np.array([0, 1]))
    assert PRIMARY_METRIC[task] in found
    assert found.keys() <= HIGHER_IS_BETTER.keys()


def test_no_rows_and_unequal_lengths_are_refused():
    with pytest.raises(DataError, match="at least one row, got 0"):
        evaluate("binary", np.empty(0), np.empty(0))
    with pytest.raises(DataError, match="got 2 scores and 3 labels"):
        evaluate("binary", np.zeros(2), np.zeros(3))
