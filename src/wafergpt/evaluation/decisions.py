"""Offsets of scores that decide for a metric: fitted on rows, and kept if they help on others.

An offset is added to the log probability of a class, or to the log-odds of a label, before the
decision; probabilities stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wafergpt.evaluation.metrics import LEAST, decision_metrics
from wafergpt.evaluation.multi_label import set_metrics

Floats = NDArray[np.float64]
Rows = NDArray[np.bool_]
D = TypeVar("D", NDArray[np.int64], NDArray[np.bool_])

FOLDS = 5

POWERS = np.linspace(0.0, 1.5, 31)
"""Of the inverse frequencies of classes that probabilities are multiplied by."""

SHIFTS = np.linspace(-4.0, 4.0, 81)
"""Offsets of the second of two classes."""

FEWEST, MOST, CUTS = 0.2, 5.0, 61
"""Times as many answered labels as right ones, and how many such numbers are tried."""


def classes_decided(probabilities: NDArray[np.floating], offsets: Floats) -> NDArray[np.int64]:
    """Return the class ``[n]`` of the highest log probability plus offset."""
    logs = np.log(np.maximum(probabilities.astype(np.float64), LEAST))
    return np.asarray((logs + offsets).argmax(1), dtype=np.int64)


def labels_decided(probabilities: NDArray[np.floating], offsets: Floats) -> NDArray[np.bool_]:
    """Return the labels ``[n, n_labels]`` whose log-odds plus offset are above 0."""
    return np.asarray(_log_odds(probabilities) + offsets > 0)


def class_offsets(
    probabilities: NDArray[np.floating], targets: NDArray[np.int64], metric: str
) -> Floats | None:
    """Correct for frequent classes: offsets are the negative log frequencies times a factor.

    That is the correction for a prior (Menon et al., arXiv:2007.07314) by a factor that is fitted.
    Of two classes the offset between them is fitted.

    Args:
        probabilities: ``[n, n_labels]``.
        targets: ``[n]`` right classes.
        metric: of ``decision_metrics``.

    Returns:
        ``[n_labels]``; None if they do not help on rows that they were not fitted on.
    """
    n, k = probabilities.shape
    factors = SHIFTS if k == 2 else POWERS

    def score(decided: NDArray[np.int64], rows: Rows) -> float:
        pairs = np.bincount(targets[rows] * k + decided, minlength=k * k)
        return decision_metrics(pairs.reshape(k, k))[metric]

    def fit(rows: Rows) -> Floats:
        counts = np.bincount(targets[rows], minlength=k) + 1.0
        direction = np.array([0.0, 1.0]) if k == 2 else -np.log(counts / counts.mean())
        given = probabilities[rows]
        values = [score(classes_decided(given, f * direction), rows) for f in factors]
        # Of equally good ones the one that changes least.
        best = min(range(len(factors)), key=lambda i: (-values[i], abs(factors[i])))
        return np.asarray(factors[best] * direction)

    def decide(offsets: Floats, rows: Rows) -> NDArray[np.int64]:
        return classes_decided(probabilities[rows], offsets)

    return _kept_if_better(n, k, fit, decide, score)


def label_offsets(
    probabilities: NDArray[np.floating],
    targets: NDArray[np.integer],
    metric: str,
    each: bool,
) -> Floats | None:
    """Choose the threshold of all labels, or one for each.

    Args:
        probabilities: ``[n, n_labels]`` of each label by itself.
        targets: ``[n, n_labels]``, 1 for right labels.
        metric: of ``set_metrics``.
        each: fit one to the F1 of each label.

    Returns:
        ``[n_labels]``; None if they do not help on rows that they were not fitted on.
    """
    n, k = probabilities.shape
    odds, wanted = _log_odds(probabilities), targets > 0

    def score(decided: NDArray[np.bool_], rows: Rows) -> float:
        return set_metrics(wanted[rows], decided)[metric]

    def one(rows: Rows) -> Floats:
        ranked = np.sort(odds[rows], axis=None)[::-1]
        counts = np.geomspace(FEWEST, MOST, CUTS) * max(1, wanted[rows].sum())
        places = np.unique(np.minimum(counts.astype(np.int64), len(ranked) - 1))
        cuts = [0.0, *(-_between(ranked, places))]
        values = [score(odds[rows] + cut > 0, rows) for cut in cuts]
        return np.full(k, cuts[int(np.argmax(values))])

    def of_each(rows: Rows) -> Floats:
        return np.array([_best_cut(odds[rows, label], wanted[rows, label]) for label in range(k)])

    def decide(offsets: Floats, rows: Rows) -> NDArray[np.bool_]:
        return np.asarray(odds[rows] + offsets > 0)

    return _kept_if_better(n, k, of_each if each else one, decide, score)


def _kept_if_better(
    n: int,
    k: int,
    fit: Callable[[Rows], Floats],
    decide: Callable[[Floats, Rows], D],
    score: Callable[[D, Rows], float],
) -> Floats | None:
    """Return the offsets fitted to all rows if those of other folds beat none at all."""
    everything, folds = np.ones(n, dtype=np.bool_), np.arange(n) % FOLDS
    plain = decide(np.zeros(k), everything)
    if n < 2 * FOLDS:
        return None
    crossed = plain.copy()
    for fold in range(FOLDS):
        crossed[folds == fold] = decide(fit(folds != fold), folds == fold)
    return fit(everything) if score(crossed, everything) > score(plain, everything) else None


def _best_cut(odds: Floats, wanted: NDArray[np.bool_]) -> float:
    """Return the offset of one label with the best F1; 0 if no row has it."""
    if not wanted.any():
        return 0.0
    order = np.argsort(-odds, kind="stable")
    ranked, hits = odds[order], np.cumsum(wanted[order])
    counts = np.arange(1, len(odds) + 1)
    f1 = 2 * hits / (counts + wanted.sum())
    # Equal ones cannot be told apart.
    f1[:-1][ranked[:-1] == ranked[1:]] = -1.0
    place = int(f1.argmax())
    return float(-_between(ranked, np.array([place]))[0])


def _between(ranked: Floats, places: NDArray[np.int64]) -> Floats:
    """Return cuts of falling values below each place, in the middle of the gap."""
    below = np.append(ranked, ranked[-1] - 1.0)
    return np.asarray((ranked[places] + below[places + 1]) / 2)


def _log_odds(probabilities: NDArray[np.floating]) -> Floats:
    found = np.clip(probabilities.astype(np.float64), LEAST, 1 - LEAST)
    return np.asarray(np.log(found) - np.log1p(-found))
