"""Calibration against scikit-learn and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from wafergpt.evaluation.calibration import (
    BINS,
    calibration_metrics,
    fitted_temperature,
    resampled,
    with_temperature,
)


def drawn(n: int, k: int, scale: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return logits, and targets that are drawn from the softmax of logits / scale."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * 2
    right = with_temperature(softmax(logits), scale)
    targets = np.array([rng.choice(k, p=row) for row in right])
    return logits, targets


def softmax(logits: np.ndarray) -> np.ndarray:
    found: np.ndarray = torch.from_numpy(logits).softmax(1).numpy()
    return found


def best_loss(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the loss at the best temperature, which torch's own optimizer finds."""
    inverse = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([inverse], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits * inverse, targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    return closure().item()


@settings(max_examples=20)
@given(st.integers(2, 6), st.floats(0.3, 4), st.integers(0, 99))
def test_the_temperature_is_that_of_lbfgs_and_changes_no_answer(
    k: int, scale: float, seed: int
) -> None:
    logits, targets = drawn(300, k, scale, seed)
    found = fitted_temperature(logits, targets)
    scores, answers = torch.from_numpy(logits), torch.from_numpy(targets)
    ours = F.cross_entropy(scores / found, answers).item()
    assert ours <= best_loss(scores, answers) + 1e-6
    before = softmax(logits)
    after = with_temperature(before, found)
    assert (after.argmax(1) == before.argmax(1)).all()
    assert np.abs(after - softmax(logits / found)).max() < 1e-6


def test_a_known_scale_is_found_and_the_error_falls() -> None:
    logits, targets = drawn(5000, 3, 2.5, 1)
    assert fitted_temperature(logits, targets) == pytest.approx(2.5, rel=0.06)
    before = calibration_metrics(softmax(logits), targets)
    after = calibration_metrics(softmax(logits / 2.5), targets)
    assert before["ece"] > 0.15
    assert after["ece"] < 0.03
    assert after["nll"] < before["nll"]
    assert before["accuracy"] == after["accuracy"]


def test_losses_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    logits, targets = drawn(400, 4, 1.5, 2)
    found = calibration_metrics(softmax(logits), targets)
    assert found["nll"] == pytest.approx(metrics.log_loss(targets, softmax(logits)))
    one_hot = np.eye(4)[targets]
    assert found["brier"] == pytest.approx(((softmax(logits) - one_hot) ** 2).sum(1).mean())
    two, answers = drawn(300, 2, 1.0, 3)
    brier = metrics.brier_score_loss(answers, softmax(two)[:, 1])
    assert calibration_metrics(softmax(two), answers)["brier"] == pytest.approx(2 * brier)


def test_the_class_that_is_answered_is_judged() -> None:
    probabilities = np.array([[0.6, 0.4], [0.7, 0.3], [0.9, 0.1]])
    targets = np.array([1, 0, 0])
    found = calibration_metrics(probabilities, targets, np.array([1, 1, 0]))
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["mean_confidence"] == pytest.approx((0.4 + 0.3 + 0.9) / 3)
    assert found["ece"] == pytest.approx((0.6 + 0.3 + 0.1) / 3)
    plain = calibration_metrics(probabilities, targets)
    assert (found["nll"], found["brier"]) == (plain["nll"], plain["brier"])
    assert plain["mean_confidence"] == pytest.approx((0.6 + 0.7 + 0.9) / 3)


def test_the_bins_are_those_of_scikit_learn() -> None:
    curve = pytest.importorskip("sklearn.calibration").calibration_curve
    logits, targets = drawn(600, 3, 0.7, 4)
    probabilities = softmax(logits)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets
    shares, means = curve(right, confidence, n_bins=BINS, strategy="uniform")
    found = calibration_metrics(probabilities, targets)
    bins = found["reliability"]
    assert [one["accuracy"] for one in bins] == pytest.approx(shares.tolist())
    assert [one["confidence"] for one in bins] == pytest.approx(means.tolist())
    counts = np.array([one["n"] for one in bins])
    assert found["ece"] == pytest.approx((counts * np.abs(shares - means)).sum() / counts.sum())
    shares, means = curve(right, confidence, n_bins=BINS, strategy="quantile")
    assert found["adaptive_ece"] == pytest.approx(np.abs(shares - means).mean(), abs=2e-3)
    low, high = found["intervals"]["ece"]
    assert low < high < 1


@settings(max_examples=8)
@given(st.integers(2, 5), st.floats(0.5, 3), st.integers(0, 999))
def test_right_probabilities_have_a_small_error(k: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = softmax(rng.normal(size=(3000, k)) * scale)
    targets = (probabilities.cumsum(1) < rng.random((3000, 1))).sum(1).clip(0, k - 1)
    found = resampled(probabilities, targets).whole
    assert found["ece"] < 0.06
    assert found["adaptive_ece"] < 0.06


def test_resamples_are_the_errors_of_the_rows_drawn() -> None:
    logits, targets = drawn(90, 3, 1.5, 6)
    probabilities = softmax(logits)
    sampled = resampled(probabilities, targets)
    rng = np.random.default_rng(0)
    for place in range(20):
        chosen = rng.integers(90, size=90)
        again = resampled(probabilities[chosen], targets[chosen]).whole
        for name, value in again.items():
            assert sampled.resampled[name][place] == pytest.approx(value), name


@pytest.mark.slow
def test_intervals_of_the_error_have_the_true_one() -> None:
    """By plain resamples 0 is in none of them, for noise has no sign in this error."""
    right, off, truth = 0, 0, 0.0
    for seed in range(20):
        logits, targets = drawn(200, 3, 1.0, seed)
        found = calibration_metrics(softmax(logits), targets)
        low, high = found["intervals"]["ece"]
        assert low <= found["ece"] <= high
        right += low == 0
        wrong = softmax(logits * 2.5)
        # Known exactly: the probabilities that the targets were drawn by.
        own = softmax(logits)[np.arange(200), wrong.argmax(1)]
        truth = float((wrong.max(1) - own).mean())
        low, high = calibration_metrics(wrong, targets)["intervals"]["ece"]
        off += low <= truth <= high
    assert right >= 17
    assert off >= 16


def test_the_highest_score_of_a_row_is_no_matter() -> None:
    logits, targets = drawn(300, 3, 2.0, 7)
    shifted = logits + np.linspace(-1e4, 1e4, 300)[:, None]
    assert fitted_temperature(shifted, targets) == pytest.approx(
        fitted_temperature(logits, targets), rel=1e-6
    )


def test_what_cannot_be_scaled_stays() -> None:
    assert fitted_temperature(np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([0, 1])) == 1.0
    assert fitted_temperature(np.array([[np.nan, 0.0]]), np.array([0])) == 1.0
    sure = with_temperature(np.array([[1.0, 0.0]]), 2.0)
    assert sure[0, 0] < 1.0
    assert sure.sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="do not fit"):
        calibration_metrics(np.ones((2, 2)), np.zeros(3, dtype=np.int64))
