"""Whether a classifier's probabilities are right: what is said with 80% is right in 80%."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafergpt.evaluation.intervals import Bootstrap, wilson

BINS = 15
"""Of the calibration errors, as in Guo et al. (arXiv:1706.04599)."""

LEAST = 1e-12
"""A lower probability counts as this."""

COLDEST, HOTTEST, STEPS = 0.02, 50.0, 80
"""Temperatures that are searched, and steps of the search: 80 leave 1e-16 of the interval."""

Floats = NDArray[np.float64]


def calibration_metrics(
    probabilities: NDArray[np.floating], targets: NDArray[np.int64]
) -> dict[str, Any]:
    """Compute how far probabilities are from the shares that are right.

    Args:
        probabilities: ``[n, n_labels]``.
        targets: ``[n]``, right classes.

    Returns:
        ``ece``, the expected calibration error of the answered class over 15 bins of equal width,
        ``adaptive_ece``, over 15 of equally many rows; ``nll``, the mean negative log probability
        of the right class in nats; ``brier``, the squared distance from the right answer, summed
        over classes (0 to 2; of two classes twice the one of scikit-learn); their ``intervals``;
        ``accuracy`` and ``mean_confidence``; and ``reliability``, the bins that have rows:
        ``low``, ``high``, ``n``, ``confidence``, ``accuracy`` and its ``interval``.

    Raises:
        ValueError: if there are no rows, or shapes do not fit.
    """
    sampled = resampled(probabilities, targets)
    confidence, right = _answers(probabilities, targets)
    return {
        **sampled.whole,
        "intervals": sampled.intervals(),
        "accuracy": float(right.mean()),
        "mean_confidence": float(confidence.mean()),
        "reliability": _reliability(confidence, right),
    }


def resampled(probabilities: NDArray[np.floating], targets: NDArray[np.int64]) -> Bootstrap:
    """Compute the four errors on all rows and on resamples, which two models can share.

    Args:
        probabilities: ``[n, n_labels]``.
        targets: ``[n]``, right classes.

    Returns:
        ``ece``, ``adaptive_ece``, ``nll`` and ``brier``.

    Raises:
        ValueError: if there are no rows, or shapes do not fit.
    """
    if not len(targets) or probabilities.shape[:1] != targets.shape:
        raise ValueError(f"{targets.shape} targets do not fit {probabilities.shape}")
    confidence, right = _answers(probabilities, targets)
    rows = np.arange(len(targets))
    own = probabilities[rows, targets].astype(np.float64)
    losses = -np.log(np.maximum(own, LEAST))
    squares = (probabilities.astype(np.float64) ** 2).sum(1) - 2 * own + 1

    def metrics(chosen: NDArray[np.int64]) -> Mapping[str, float]:
        some, ok = confidence[chosen], right[chosen]
        return {
            "ece": _error(_widths(some), some, ok),
            "adaptive_ece": _error(_masses(some), some, ok),
            "nll": float(losses[chosen].mean()),
            "brier": float(squares[chosen].mean()),
        }

    return Bootstrap.of(metrics, len(targets))


def fitted_temperature(
    log_probabilities: NDArray[np.floating], targets: NDArray[np.int64]
) -> float:
    """Return the temperature with the lowest loss (Guo et al., arXiv:1706.04599).

    The loss is convex in its inverse, so that a search by golden sections finds it.

    Args:
        log_probabilities: ``[n, n_labels]``, or logits.
        targets: ``[n]``, right classes.

    Returns:
        From 0.02 to 50; 1 if the log probabilities are not finite.
    """
    logs = np.maximum(log_probabilities.astype(np.float64), np.log(LEAST) * 10)
    if not np.isfinite(logs).all():
        return 1.0
    rows = np.arange(len(targets))

    def loss(inverse: float) -> float:
        scaled = logs * inverse
        top = scaled.max(1)
        totals = top + np.log(np.exp(scaled - top[:, None]).sum(1))
        return float((totals - scaled[rows, targets]).mean())

    low, high = 1 / HOTTEST, 1 / COLDEST
    golden = (5**0.5 - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(STEPS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = loss(right)
    return 2 / (low + high)


def with_temperature(probabilities: NDArray[np.floating], temperature: float) -> Floats:
    """Return probabilities as if their logits were divided by a temperature.

    Args:
        probabilities: ``[n, n_labels]``.
        temperature: above 1, they become less certain.

    Returns:
        ``[n, n_labels]``.
    """
    scaled = np.log(np.maximum(probabilities.astype(np.float64), LEAST)) / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _answers(
    probabilities: NDArray[np.floating], targets: NDArray[np.int64]
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the probability of the most probable class of each row, and whether it is right."""
    answers = probabilities.argmax(1)
    confidence = probabilities[np.arange(len(answers)), answers].astype(np.float64)
    return confidence, np.asarray(answers == targets)


def _widths(confidence: Floats) -> NDArray[np.int64]:
    """Return the bin of each row, of equal width; a bin has its upper end."""
    bins = np.ceil(confidence * BINS).astype(np.int64) - 1
    return np.clip(bins, 0, BINS - 1)


def _masses(confidence: Floats) -> NDArray[np.int64]:
    """Return the bin of each row, of equally many rows."""
    ranks = np.empty(len(confidence), dtype=np.int64)
    ranks[np.argsort(confidence, kind="stable")] = np.arange(len(confidence))
    return ranks * BINS // len(confidence)


def _error(bins: NDArray[np.int64], confidence: Floats, right: NDArray[np.bool_]) -> float:
    gaps = np.bincount(bins, weights=right - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(bins))


def _reliability(confidence: Floats, right: NDArray[np.bool_]) -> list[dict[str, Any]]:
    bins, found = _widths(confidence), []
    for place in np.unique(bins).tolist():
        inside = bins == place
        n, share = int(inside.sum()), float(right[inside].mean())
        found.append({
            "low": place / BINS,
            "high": (place + 1) / BINS,
            "n": n,
            "confidence": float(confidence[inside].mean()),
            "accuracy": share,
            "interval": list(wilson(share, n)),
        })  # fmt: skip
    return found
