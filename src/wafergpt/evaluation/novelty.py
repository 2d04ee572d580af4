"""How unlike the training rows a text is, by the hidden states that a classifier reads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wafergpt.evaluation.ranking import average_precision
from wafergpt.evaluation.selective import detection_metrics

SHRUNK = 1e-3
"""Share of the mean variance that is added to each, so that a covariance can be inverted."""

Floats = NDArray[np.float64]


def mahalanobis(
    train: NDArray[np.floating], targets: NDArray[np.int64], features: NDArray[np.floating]
) -> Floats:
    """Score features by their distance from the nearest class (Lee et al., arXiv:1807.03888).

    Args:
        train: ``[n, width]``, of training rows.
        targets: ``[n]``, their classes.
        features: ``[m, width]``.

    Returns:
        ``[m]``, minus the squared Mahalanobis distance from the closest mean of a class, by the
        covariance within classes, which all share: higher is more like the training rows.
    """
    train, features = train.astype(np.float64), features.astype(np.float64)
    classes, place = np.unique(targets, return_inverse=True)
    counts = np.bincount(place)[:, None]
    means = np.zeros((len(classes), train.shape[1]))
    np.add.at(means, place, train)
    means /= counts
    centred = train - means[place]
    covariance = centred.T @ centred / len(train)
    scale = np.trace(covariance) / len(covariance) or 1.0
    covariance += SHRUNK * scale * np.eye(len(covariance))
    # With the Cholesky factor L, the distance is the length of L⁻¹ (x − mean).
    factor = np.linalg.cholesky(covariance)
    whitened = np.linalg.solve(factor, features.T).T
    centres = np.linalg.solve(factor, means.T).T
    squares = (whitened**2).sum(1)[:, None] - 2 * whitened @ centres.T + (centres**2).sum(1)[None]
    return np.asarray(-squares.min(1))


def nearest(train: NDArray[np.floating], features: NDArray[np.floating], k: int = 10) -> Floats:
    """Score features by their k-th nearest training row (Sun et al., arXiv:2204.06507).

    Args:
        train: ``[n, width]``, of training rows.
        features: ``[m, width]``.
        k: which neighbour; the last one if there are fewer.

    Returns:
        ``[m]``, the cosine similarity to it: higher is more like the training rows.
    """
    known, asked = (_of_length_1(one) for one in (train, features))
    k = min(k, len(known))
    found = np.empty(len(asked))
    for first in range(0, len(asked), 1024):
        alike = asked[first : first + 1024] @ known.T
        found[first : first + 1024] = np.partition(alike, len(known) - k, axis=1)[:, -k]
    return found


def novelty_metrics(
    inside: NDArray[np.floating], outside: NDArray[np.floating]
) -> dict[str, float]:
    """Compute how well a score tells texts of the classes from others.

    Args:
        inside: ``[n]``, scores of texts that are of a class, which should be higher.
        outside: ``[m]``, of others.

    Returns:
        ``auroc`` and ``fpr95`` of ``detection_metrics``, and the average precision of finding the
        others, ``aupr_out``, and of finding those of a class, ``aupr_in``.
    """
    auroc, fpr95 = detection_metrics(inside, outside)
    scores = np.concatenate([inside, outside]).astype(np.float64)
    is_inside = np.repeat([1.0, 0.0], [len(inside), len(outside)])
    return {
        "auroc": auroc,
        "fpr95": fpr95,
        "aupr_out": average_precision(-scores, 1 - is_inside),
        "aupr_in": average_precision(scores, is_inside),
    }


def _of_length_1(features: NDArray[np.floating]) -> Floats:
    values = features.astype(np.float64)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12))
