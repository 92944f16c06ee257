"""Run: pytest tests/test_metrics.py"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import brier_score_loss, f1_score, roc_auc_score
from sklearn.metrics import log_loss as sklearn_log_loss

from pipelines import metrics

# Few different values, so that ties are the rule.
scores = st.integers(2, 60).flatmap(
    lambda n: st.tuples(
        arrays(np.int8, n, elements=st.integers(0, 1)),
        arrays(np.float64, n, elements=st.integers(0, 8).map(lambda i: i / 8)),
    )
)
both_labels = scores.filter(lambda pair: 0 < pair[0].sum() < len(pair[0]))


def drawn(n: int, strength: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and scores of normal noise around `strength` for label 1 and 0 for label 0."""
    random = np.random.default_rng(seed)
    label = (random.random(n) < 0.3).astype(np.int8)
    return label, random.normal(label * strength, 1.0)


@given(both_labels)
def test_auc_is_sklearns_ties_included(pair):
    assert metrics.auc(*pair) == pytest.approx(roc_auc_score(*pair), abs=1e-12)


@given(scores)
def test_auc_without_one_of_the_labels_is_nan_and_not_an_error(pair):
    label, score = pair
    assert np.isnan(metrics.auc(label, score)) == (label.min() == label.max())


@given(both_labels)
def test_auc_of_swapped_signs_is_what_is_missing_to_one(pair):
    label, score = pair
    assert metrics.auc(label, -score) == pytest.approx(1 - metrics.auc(label, score))


@given(both_labels, st.integers(0, 9))
@settings(max_examples=50)
def test_weighted_auc_is_that_of_the_repeated_rows(pair, seed):
    label, score = pair
    (counts,) = metrics.resamples(len(label), 1, seed)
    assert counts.sum() == len(label)
    repeated = metrics.auc(np.repeat(label, counts), np.repeat(score, counts))
    weighted = metrics._Ranked(label, score).weighted(counts)
    assert weighted == pytest.approx(repeated, nan_ok=True)


@given(both_labels)
def test_log_loss_and_brier_are_sklearns(pair):
    label, score = pair
    assert metrics.brier(label, score) == pytest.approx(brier_score_loss(label, score))
    inside = np.clip(score, 1e-7, 1 - 1e-7)
    assert metrics.log_loss(label, score) == pytest.approx(
        sklearn_log_loss(label, inside, labels=[0, 1])
    )


@given(both_labels)
@settings(max_examples=50)
def test_no_threshold_has_a_better_f1_than_the_best(pair):
    label, score = pair
    best = metrics.best_threshold(label, score)
    reached = f1_score(label, score >= best)
    for other in np.unique(score):
        assert reached >= f1_score(label, score >= other) - 1e-12


@given(both_labels, st.floats(0, 1))
def test_accuracy_is_the_share_of_labels_that_are_called(pair, threshold):
    label, score = pair
    assert metrics.accuracy(label, score, threshold) == pytest.approx(
        np.mean((score >= np.float32(threshold)) == label)
    )


def of_classes(n: int, strength: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of three classes, and probabilities (N, 3) that favour the right one by `strength`."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 3, n)
    logit = random.normal(size=(n, 3)) + strength * np.eye(3)[label]
    return label, np.exp(logit) / np.exp(logit).sum(axis=1, keepdims=True)


@given(st.integers(0, 100), st.floats(0, 3))
def test_measures_of_classes_are_sklearns(seed, strength):
    label, probability = of_classes(200, strength, seed)
    each = roc_auc_score(label, probability, multi_class="ovr", average="macro")
    assert metrics.auc(label, probability) == pytest.approx(each, abs=1e-12)
    assert metrics.log_loss(label, probability) == pytest.approx(
        sklearn_log_loss(label, probability), abs=1e-6
    )
    assert metrics.accuracy(label, probability, 0.0) == pytest.approx(
        np.mean(probability.argmax(axis=1) == label)
    )


@given(both_labels)
def test_two_classes_are_measured_as_the_one_question_that_they_are(pair):
    label, score = pair
    both = np.column_stack([1 - score, score])
    assert metrics.auc(label, both) == pytest.approx(metrics.auc(label, score), abs=1e-12)
    assert metrics.log_loss(label, both) == pytest.approx(metrics.log_loss(label, score), abs=1e-9)
    assert metrics.brier(label, both) == pytest.approx(2 * metrics.brier(label, score), abs=1e-12)


def test_a_class_that_no_row_has_is_left_out_of_the_auc():
    label, probability = of_classes(200, 1.0, 0)
    without = label != 2
    assert np.isfinite(metrics.auc(label[without], probability[without]))
    assert np.isnan(metrics.auc(label[label == 2], probability[label == 2]))


def test_a_better_model_of_classes_is_told_from_an_equal_one():
    label, strong = of_classes(600, 2.0, 1)
    _, weak = of_classes(600, 0.0, 1)
    gain = metrics.auc_difference(label, strong, weak, 200, seed=0)
    assert gain.low > 0.2
    none = metrics.auc_difference(label, strong, strong, 200, seed=0)
    assert (none.low, none.high) == (0, 0)


def test_the_likeliest_class_is_as_sure_as_it_is_right():
    label, probability = of_classes(20_000, 1.0, 2)
    # Of noise with deviation 1, 1 further for the right class, the softmax is the true posterior.
    assert metrics.calibration_error(label, probability) < 0.02
    assert metrics.calibration_error(label, np.eye(3)[label]) == 0
    surer = probability**3 / (probability**3).sum(axis=1, keepdims=True)
    assert metrics.calibration_error(label, surer) > 0.1


@given(both_labels)
def test_calibration_error_lies_between_nothing_and_one(pair):
    assert 0 <= metrics.calibration_error(*pair) <= 1
    assert sum(rows for _, _, rows in metrics.calibration(*pair)) == len(pair[0])


def test_calibration_error_of_true_probabilities_is_small_and_of_shifted_ones_is_the_shift():
    random = np.random.default_rng(0)
    probability = random.uniform(0.1, 0.6, 20_000)
    label = (random.random(20_000) < probability).astype(np.int8)
    assert metrics.calibration_error(label, probability) < 0.01
    assert metrics.calibration_error(label, probability + 0.3) == pytest.approx(0.3, abs=0.01)


def test_interval_covers_the_true_auc_as_often_as_it_says():
    # Scores N(1, 1) against N(0, 1): the true AUC is P(difference > 0) = Phi(1 / sqrt 2).
    true = 0.7602499389065233
    inside = 0
    for seed in range(200):
        found = metrics.auc_interval(*drawn(300, 1.0, seed), times=200, seed=seed, confidence=0.9)
        assert found.low <= found.value <= found.high
        inside += found.low <= true <= found.high
    assert 0.83 <= inside / 200 <= 0.96  # nominal .90; two standard errors are .04


def test_paired_interval_of_equal_models_covers_zero_as_often_as_it_says():
    outside = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        label, common = drawn(300, 1.0, seed)
        one, other = (common + random.normal(0, 0.5, 300) for _ in range(2))
        found = metrics.auc_difference(label, one, other, times=200, seed=seed, confidence=0.9)
        outside += not found.low <= 0 <= found.high
    assert 0.04 <= outside / 200 <= 0.17


def test_pairing_narrows_the_interval_of_models_that_agree():
    label, score = drawn(500, 1.0, 1)
    near = score + np.random.default_rng(2).normal(0, 0.1, 500)
    paired = metrics.auc_difference(label, score, near, times=200, seed=7)
    alone = metrics.auc_interval(label, score, times=200, seed=7)
    assert (paired.high - paired.low) < 0.3 * (alone.high - alone.low)


@given(both_labels)
@settings(max_examples=50)
def test_a_model_against_itself_differs_by_nothing(pair):
    label, score = pair
    found = metrics.auc_difference(label, score, score, times=20, seed=7)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_intervals_repeat_with_their_seed():
    label, score = drawn(200, 1.0, 3)
    first, again, other = (
        metrics.auc_interval(label, score, times=50, seed=seed) for seed in (7, 7, 8)
    )
    assert first == again != other
