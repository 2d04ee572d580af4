"""How unevenly classes use n-grams of words: the weights of naive Bayes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def log_count_ratios(
    ngrams: Sequence[NDArray[np.int32]], targets: NDArray[np.int64], n_classes: int, rows: int
) -> NDArray[np.float32]:
    """Return how much more often each row is read by texts of a class than by all others.

    The logarithms of ratios of shares, each count plus one (Wang and Manning, ACL 2012); 0 for rows
    that no text reads.

    Args:
        ngrams: of each text.
        targets: ``[n]``, its class, or ``[n, n_classes]``, 1 for each of its labels.
        n_classes: number of classes.
        rows: of the table.

    Returns:
        ``[rows, n_classes]``.
    """
    counts = np.zeros((n_classes, rows))
    for label in range(n_classes):
        has = targets == label if targets.ndim == 1 else targets[:, label] > 0
        own = [ngrams[place] for place in np.flatnonzero(has).tolist()]
        if own:
            counts[label] = np.bincount(np.concatenate(own), minlength=rows)
    total = counts.sum(0)
    if targets.ndim == 2:
        # A text with several labels is read once.
        total = np.bincount(np.concatenate(ngrams), minlength=rows).astype(np.float64)
    seen, others = total > 0, total - counts + 1
    counts += 1
    ratios = np.log(counts / counts.sum(1, keepdims=True))
    ratios -= np.log(others / others.sum(1, keepdims=True))
    return np.where(seen, ratios, 0.0).T.astype(np.float32)
