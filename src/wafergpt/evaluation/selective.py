"""How well a classifier's certainty tells its right answers, and inputs that are of no class."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

POINTS = 50
"""Points of a curve that is kept."""

COVERAGE = 0.9
"""The share of rows that ``accuracy_at_90`` is of."""

RECALL = 0.95
"""The share of inputs in scope that ``fpr95`` keeps."""


def selective_metrics(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> dict[str, Any]:
    """Compute how accurate the most certain answers are (Geifman and El-Yaniv, arXiv:1705.08500).

    Args:
        confidence: ``[n]``, of each answer.
        right: ``[n]``, whether it is right. Of answers that are equally certain each counts as
            their mean.

    Returns:
        ``aurc``, the mean error over all coverages; ``accuracy_at_90``, of the most certain 90%;
        and ``risk_coverage``, pairs of a coverage and the accuracy there.
    """
    n = len(right)
    _, place, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = np.bincount(place, weights=~right) / counts
    risks = np.cumsum(np.repeat(wrong, counts)) / np.arange(1, n + 1)
    shown = np.unique(np.ceil(np.linspace(1, POINTS, POINTS) / POINTS * n).astype(int))
    return {
        "aurc": float(risks.mean()),
        "accuracy_at_90": float(1 - risks[answered(n, COVERAGE) - 1]),
        "risk_coverage": [[float(m / n), float(1 - risks[m - 1])] for m in shown],
    }


def answered(n: int, coverage: float) -> int:
    """Return how many of ``n`` rows are answered, at least one."""
    return max(1, math.ceil(round(coverage * n, 9)))


def threshold_for(confidence: NDArray[np.floating], coverage: float) -> float:
    """Return the confidence from which on that share of rows is answered.

    Args:
        confidence: ``[n]``, of the answers to some rows.
        coverage: above 0; 1 answers all.

    Returns:
        The threshold, in the middle of a gap; 0 to answer all, and if they are not finite.
    """
    m = answered(len(confidence), coverage)
    if m >= len(confidence) or not np.isfinite(confidence).all():
        return 0.0
    ranked = np.sort(confidence.astype(np.float64))[::-1]
    return float((ranked[m - 1] + ranked[m]) / 2)


def detection_metrics(
    inside: NDArray[np.floating], outside: NDArray[np.floating]
) -> tuple[float, float]:
    """Compute how well a score tells what is in scope from what is not.

    Args:
        inside: ``[n]``, scores of inputs in scope, which should be higher.
        outside: ``[m]``, of others.

    Returns:
        AUROC, of ties one half; and FPR95, the share of others that are accepted where 95% of those
        in scope are.
    """
    ranked = np.sort(outside.astype(np.float64))
    scores = inside.astype(np.float64)
    below, up_to = (np.searchsorted(ranked, scores, side) for side in ("left", "right"))
    auroc = (below + up_to).mean() / (2 * len(ranked))
    kept = np.sort(scores)[::-1][math.ceil(round(RECALL * len(scores), 9)) - 1]
    return float(auroc), float((ranked >= kept).mean())
