"""How unevenly classes use n-grams of words: the weights of naive Bayes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SMOOTHING = 0.5
"""What is added to each count."""

Ngrams = Sequence[NDArray[np.int32]]
"""The distinct ones of each text, as numbers."""


def shared_ngrams(ngrams: Ngrams) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the n-grams ``[n]`` of at least two texts, ascending, and how many have each."""
    found = np.sort(np.concatenate(ngrams)) if len(ngrams) else np.zeros(0, dtype=np.int32)
    first = np.flatnonzero(np.concatenate([[True], found[1:] != found[:-1]])[: len(found)])
    counts = np.diff(first, append=len(found))
    shared = counts > 1
    return found[first[shared]], counts[shared]


def log_count_ratios(
    ngrams: Ngrams, targets: NDArray[np.int64], n_classes: int, of: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Return how much more often each n-gram is in texts of a class than in all others.

    The logarithms of ratios of shares (Wang and Manning, ACL 2012), each as a text that has the
    n-gram finds it in the other texts, on average over these texts. A text counted in its own
    ratios would look as if any n-gram that it alone has told its class.

    Args:
        ngrams: of each text.
        targets: ``[n_texts]``, its class, or ``[n_texts, n_classes]``, 1 for each of its labels.
        n_classes: number of classes.
        of: ``[n]``, n-grams in ascending order.

    Returns:
        ``[n, n_classes]``; 0 for n-grams that fewer than two texts have.
    """
    reads, found = _counts(ngrams, of), np.zeros((len(of), n_classes), dtype=np.float32)
    unseen = SMOOTHING * np.count_nonzero(reads)
    for label in range(n_classes if unseen else 0):
        has = targets == label if targets.ndim == 1 else targets[:, label] > 0
        own = _counts([ngrams[place] for place in np.flatnonzero(has).tolist()], of)
        others, every = reads - own, own.sum()
        # Texts of the class find one less of it, and those of others one less of them.
        mean = own * _log_ratio(own - 1, others) + others * _log_ratio(own, others - 1)
        shares = (every + unseen) / (reads.sum() - every + unseen)
        found[:, label] = mean / np.maximum(reads, 1) - np.log(shares)
    found[reads < 2] = 0
    return found


def _counts(ngrams: Ngrams, of: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return how many texts have each n-gram."""
    if not ngrams or not len(of):
        return np.zeros(len(of))
    there = np.concatenate(ngrams)
    places = np.minimum(np.searchsorted(of, there), len(of) - 1)
    return np.bincount(places[of[places] == there], minlength=len(of)).astype(np.float64)


def _log_ratio(own: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    own, others = np.maximum(own, 0) + SMOOTHING, np.maximum(others, 0) + SMOOTHING
    ratio: NDArray[np.float64] = np.log(own / others)
    return ratio
