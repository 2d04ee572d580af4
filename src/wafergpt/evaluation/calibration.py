"""Whether a classifier's probabilities are right: what is said with 80% is right in 80%."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafergpt.evaluation.intervals import LEVEL, RESAMPLES, Bootstrap, wilson
from wafergpt.evaluation.metrics import LEAST

BINS = 15
"""Of the calibration errors, as in Guo et al. (arXiv:1706.04599)."""

LOWEST = -1e6
"""A logit that is further below the highest one counts as this, minus infinity too."""

COLDEST, HOTTEST, STEPS = 0.02, 50.0, 80
"""Temperatures that are searched, and steps of the search: 80 leave 1e-16 of the interval."""

Floats = NDArray[np.float64]


def calibration_metrics(
    probabilities: NDArray[np.floating],
    targets: NDArray[np.int64],
    decided: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """Compute how far probabilities are from the shares that are right.

    Args:
        probabilities: ``[n, n_labels]``.
        targets: ``[n]``, right classes.
        decided: ``[n]``, classes that are answered; the most probable ones if omitted.

    Returns:
        ``ece``, the expected calibration error of the answered class over 15 bins of equal width,
        ``adaptive_ece``, over 15 of equally many rows; ``nll``, the mean negative log probability
        of the right class in nats; ``brier``, the squared distance from the right answer, summed
        over classes (0 to 2; of two classes twice the one of scikit-learn); their ``intervals``;
        ``accuracy`` and ``mean_confidence``; and ``reliability``, the bins that have rows:
        ``low``, ``high``, ``n``, ``confidence``, ``accuracy`` and its ``interval``. Of few rows
        both calibration errors are too high; their intervals allow for it, and reach down to 0
        where right probabilities would often have as high an error.

    Raises:
        ValueError: if there are no rows, or shapes do not fit.
    """
    sampled = resampled(probabilities, targets, decided)
    confidence, right = _answers(probabilities, targets, decided)
    by_bin = {"ece": _widths(confidence), "adaptive_ece": _masses(confidence)}
    pivoted = {
        name: _pivoted(sampled.whole[name], sampled.interval(name), bins, confidence)
        for name, bins in by_bin.items()
    }
    return {
        **sampled.whole,
        "intervals": sampled.intervals() | pivoted,
        "accuracy": float(right.mean()),
        "mean_confidence": float(confidence.mean()),
        "reliability": _reliability(confidence, right),
    }


def resampled(
    probabilities: NDArray[np.floating],
    targets: NDArray[np.int64],
    decided: NDArray[np.int64] | None = None,
) -> Bootstrap:
    """Compute the four errors on all rows and on resamples, which two models can share.

    Args:
        probabilities: ``[n, n_labels]``.
        targets: ``[n]``, right classes.
        decided: ``[n]``, classes that are answered; the most probable ones if omitted.

    Returns:
        ``ece``, ``adaptive_ece``, ``nll`` and ``brier``.

    Raises:
        ValueError: if there are no rows, or shapes do not fit.
    """
    if not len(targets) or probabilities.shape[:1] != targets.shape:
        raise ValueError(f"{targets.shape} targets do not fit {probabilities.shape}")
    confidence, right = _answers(probabilities, targets, decided)
    n = len(targets)
    own = probabilities[np.arange(n), targets].astype(np.float64)
    losses = -np.log(np.maximum(own, LEAST))
    squares = (probabilities.astype(np.float64) ** 2).sum(1) - 2 * own + 1
    gaps, widths, masses = right - confidence, _widths(confidence), np.arange(n) * BINS // n
    # Sorted once, a resample is in order if each row is repeated as often as it was drawn.
    order = np.argsort(confidence, kind="stable")

    def metrics(chosen: NDArray[np.int64]) -> Mapping[str, float]:
        times = np.bincount(chosen, minlength=n)
        in_order = np.repeat(gaps[order], times[order])
        return {
            "ece": _error(widths, gaps * times),
            "adaptive_ece": _error(masses, in_order),
            "nll": float(losses @ times / n),
            "brier": float(squares @ times / n),
        }

    return Bootstrap.of(metrics, n)


def fitted_temperature(
    log_probabilities: NDArray[np.floating], targets: NDArray[np.int64]
) -> float:
    """Return the temperature with the lowest loss (Guo et al., arXiv:1706.04599).

    The loss is convex in its inverse, so that a search by golden sections finds it. Where every
    answer is right it has no lowest point: it falls for ever as the temperature does.

    Args:
        log_probabilities: ``[n, n_labels]``, or logits.
        targets: ``[n]``, right classes.

    Returns:
        From 0.02 to 50; 1 if every answer is right, or a score is not a number.
    """
    given, rows = log_probabilities.astype(np.float64), np.arange(len(targets))
    top = given.max(1, keepdims=True)
    if not np.isfinite(top).all() or (given[rows, targets] == top[:, 0]).all():
        return 1.0
    logs = np.maximum(given - top, LOWEST)

    def loss(inverse: float) -> float:
        scaled = logs * inverse
        return float((np.log(np.exp(scaled).sum(1)) - scaled[rows, targets]).mean())

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
    probabilities: NDArray[np.floating],
    targets: NDArray[np.int64],
    decided: NDArray[np.int64] | None,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the probability of the class that each row is answered with, and if it is right."""
    answers = probabilities.argmax(1) if decided is None else decided
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


def _error(bins: NDArray[np.int64], gaps: Floats) -> float:
    return float(np.abs(np.bincount(bins, weights=gaps, minlength=BINS)).sum() / len(bins))


def _pivoted(
    value: float, ends: tuple[float, float], bins: NDArray[np.int64], confidence: Floats
) -> list[float]:
    """Return the interval of a calibration error, from the ends of its resamples.

    Noise makes an error higher, and resamples have more of it: they are mirrored at the value.
    """
    low, high = max(0.0, 2 * value - ends[1]), max(value, 2 * value - ends[0])
    # How far each bin is off by chance if its probabilities are right.
    spread = np.sqrt(np.bincount(bins, weights=confidence * (1 - confidence), minlength=BINS))
    noise = np.abs(np.random.default_rng(0).normal(size=(RESAMPLES, BINS)) * spread).sum(1)
    by_chance = float(np.quantile(noise, LEVEL)) / len(bins)
    return [0.0 if value <= by_chance else low, high]


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
