"""How good a search and a ranking are, where it is known what is relevant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]

CUTOFFS = (1, 5, 10)
"""Places in an answer that recall is told at."""

NDCG_PLACES = 10

CHUNK = 256
"""Queries that are compared with all candidates at once."""

RANKS = (1, 2, 3, 5, 10, 20, 50, 100)
"""Upper ends of the classes that ranks are counted in; one more is beyond."""

SHARES = 10
"""Equal parts of 0 to 1 that NDCG is counted in."""


def ranks_by_cosine(queries: Floats, candidates: Floats, right: Sequence[Ints]) -> Ints:
    """Return the rank of each query's first right candidate, see ``first_ranks``.

    Args:
        queries: ``[n, size]``, of length 1.
        candidates: ``[c, size]``, of length 1.
        right: for each query its right candidates, one at least.
    """
    found = [
        first_ranks(queries[start : start + CHUNK] @ candidates.T, right[start : start + CHUNK])
        for start in range(0, len(queries), CHUNK)
    ]
    return np.concatenate(found)


def first_ranks(scores: Floats, right: Sequence[Ints]) -> Ints:
    """Return the rank, from 1, of the first right candidate of each query.

    A wrong candidate with the same score is taken to stand before it: equal scores find nothing.

    Args:
        scores: ``[n, c]``.
        right: for each query its right candidates, one at least.

    Returns:
        ``[n]``.
    """
    ranks = np.empty(len(scores), dtype=np.int64)
    for place, (row, own) in enumerate(zip(scores, right, strict=True)):
        # What is not a number finds nothing.
        best = np.where(np.isnan(row[own]), -np.inf, row[own]).max()
        at_least = ~(row < best)
        ranks[place] = 1 + at_least.sum() - at_least[own].sum()
    return ranks


def search_metrics(ranks: Ints) -> dict[str, Any]:
    """Return the metrics of a search.

    Args:
        ranks: ``[n]``, of the first right candidate of each query.

    Returns:
        ``recall_at_1``, ``_5`` and ``_10``, the share of queries with a right candidate among the
        first ones; ``mrr``, the mean of 1 / rank; and ``ranks``, how many ranks are up to 1, 2, 3,
        5 … and not below.
    """
    classes = np.searchsorted(RANKS, ranks)
    counts = np.bincount(classes, minlength=len(RANKS) + 1)
    names = [*(str(end) for end in RANKS), "more"]
    return {
        **{name: float(values.mean()) for name, values in query_scores(ranks).items()},
        "ranks": dict(zip(names, counts.tolist(), strict=True)),
    }


def query_scores(ranks: Ints) -> dict[str, Floats]:
    """Return what the metrics of a search are means of.

    Args:
        ranks: ``[n]``, of the first right candidate of each query.

    Returns:
        ``recall_at_1``, ``_5`` and ``_10``, and ``mrr``, ``[n]`` each.
    """
    recall = {f"recall_at_{k}": (ranks <= k).astype(np.float64) for k in CUTOFFS}
    return {**recall, "mrr": 1 / ranks}


def ndcg(scores: Floats, relevance: Floats, places: int = NDCG_PLACES) -> float:
    """Return the normalized discounted cumulative gain of a list (Järvelin and Kekäläinen, 2002).

    Gains are the relevance itself, discounts 1 / log2(1 + rank). Candidates of one score share
    their places: each has the mean of their discounts (McSherry and Najork, ECIR 2008), as in
    scikit-learn's ``ndcg_score``.

    Args:
        scores: ``[n]``.
        relevance: ``[n]``, 0 or more.
        places: that are looked at.
    """
    discounts = 1 / np.log2(np.arange(len(scores)) + 2.0)
    discounts[places:] = 0.0
    best = float(np.sort(relevance)[::-1] @ discounts)
    if best == 0:
        return 0.0
    scores = _ordered(scores)
    order = np.argsort(-scores, kind="stable")
    _, starts = np.unique(-scores[order], return_index=True)
    sizes = np.diff([*starts, len(scores)])
    means = np.add.reduceat(discounts, starts) / sizes
    gains = np.add.reduceat(relevance[order].astype(np.float64), starts)
    # Both sums are rounded, in two orders.
    return min(1.0, float(gains @ means) / best)


def average_precision(scores: Floats, relevance: Floats) -> float:
    """Return the mean precision at the ranks of a list's relevant candidates.

    Of equal scores the last place counts, as in scikit-learn's ``average_precision_score``.

    Args:
        scores: ``[n]``.
        relevance: ``[n]``; above 0 is relevant, and some candidate is.
    """
    _, place = np.unique(-_ordered(scores), return_inverse=True)
    hits = np.bincount(place, weights=relevance > 0)
    precision = np.cumsum(hits) / np.cumsum(np.bincount(place))
    return float(precision @ hits / hits.sum())


def reciprocal_rank(scores: Floats, relevance: Floats) -> float:
    """Return 1 / rank of a list's first relevant candidate; of equal scores the last place.

    Args:
        scores: ``[n]``.
        relevance: ``[n]``; above 0 is relevant, and some candidate is.
    """
    scores = _ordered(scores)
    best = scores[relevance > 0].max()
    return 1 / float((scores > best).sum() + (scores == best).sum())


def _ordered(scores: Floats) -> Floats:
    """Return scores that can be compared: what is not a number is below all others."""
    return np.where(np.isnan(scores), -np.inf, scores)


def ranking_metrics(lists: Sequence[tuple[Floats, Floats]]) -> dict[str, Any]:
    """Return the metrics of rankings, each the mean over lists.

    Args:
        lists: scores and relevance of each query's candidates.

    Returns:
        ``ndcg_at_10``, ``mrr`` and ``map``, see the functions above; and ``ndcgs``, how many lists
        have an NDCG in each tenth from 0 to 1.
    """
    scores = list_scores(lists)
    counts, _ = np.histogram(scores["ndcg_at_10"], bins=SHARES, range=(0.0, 1.0))
    measured = {name: float(values.mean()) for name, values in scores.items()}
    return {**measured, "ndcgs": counts.tolist()}


def list_scores(lists: Sequence[tuple[Floats, Floats]]) -> dict[str, Floats]:
    """Return ``ndcg_at_10``, ``mrr`` and ``map`` of each list, ``[n]`` each."""
    measures = {"ndcg_at_10": ndcg, "mrr": reciprocal_rank, "map": average_precision}
    return {name: np.array([of(*one) for one in lists]) for name, of in measures.items()}
