"""Metrics of searches and rankings, against scikit-learn's and plain counting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wafergpt.evaluation.ranking import (
    average_precision,
    first_ranks,
    ndcg,
    ranking_metrics,
    ranks_by_cosine,
    reciprocal_rank,
    search_metrics,
)

metrics = pytest.importorskip("sklearn.metrics")

Lists = tuple[NDArray[np.float64], NDArray[np.float64]]


@st.composite
def lists(draw: st.DrawFn) -> Lists:
    """Return scores, many of them equal, and a relevance that is not the same for all."""
    n = draw(st.integers(2, 25))
    scores = draw(st.lists(st.integers(0, 6), min_size=n, max_size=n))
    known = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    known[draw(st.integers(0, n - 1))] = 4
    return np.array(scores, dtype=np.float64), np.array(known, dtype=np.float64)


@settings(max_examples=60)
@given(lists(), st.integers(1, 30))
def test_ndcg_is_that_of_scikit_learn_with_ties(found: Lists, places: int) -> None:
    scores, known = found
    expected = metrics.ndcg_score(known[None], scores[None], k=places)
    assert ndcg(scores, known, places) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60)
@given(lists())
def test_precision_and_first_rank_are_those_of_scikit_learn(found: Lists) -> None:
    scores, known = found
    right = known > 0
    expected = metrics.average_precision_score(right, scores)
    assert average_precision(scores, known) == pytest.approx(expected)
    # Of a list with one right candidate the average precision is 1 / rank.
    one = np.zeros(len(known))
    one[int(known.argmax())] = 1
    expected = metrics.label_ranking_average_precision_score(one[None], scores[None])
    assert reciprocal_rank(scores, one) == pytest.approx(expected)


def test_rankings_are_counted_by_tenths() -> None:
    perfect = (np.array([3.0, 2.0, 1.0]), np.array([2.0, 1.0, 0.0]))
    worst = (np.array([1.0, 2.0, 3.0]), np.array([1.0, 0.0, 0.0]))
    found = ranking_metrics([perfect, worst])
    assert found["ndcgs"] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert found["ndcg_at_10"] == pytest.approx((1 + 0.5) / 2)
    assert found["mrr"] == pytest.approx((1 + 1 / 3) / 2)


@settings(max_examples=60)
@given(st.integers(0, 10_000))
def test_ranks_are_places_in_a_sorted_list(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.normal(size=(7, 12))
    right = [random.choice(12, random.integers(1, 4), replace=False) for _ in range(7)]
    expected = []
    for row, own in zip(scores, right, strict=True):
        order = np.argsort(-row).tolist()
        first = min(order.index(text) for text in own)
        expected.append(1 + sum(text not in own for text in order[:first]))
    assert first_ranks(scores, right).tolist() == expected


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_scores_that_are_all_alike_find_nothing(value: float) -> None:
    scores = np.full((2, 50), value)
    assert first_ranks(scores, [np.array([0]), np.array([3, 4])]).tolist() == [50, 49]


def test_cosines_are_compared_in_parts() -> None:
    random = np.random.default_rng(0)
    queries, texts = random.normal(size=(600, 4)), random.normal(size=(30, 4))
    right = [np.array([n % 30]) for n in range(600)]
    found = ranks_by_cosine(queries, texts, right)
    assert found.tolist() == first_ranks(queries @ texts.T, right).tolist()


def test_recall_counts_ranks() -> None:
    found: dict[str, Any] = search_metrics(np.array([1, 2, 5, 6, 10, 11, 200, 1]))
    assert found["recall_at_1"] == 2 / 8
    assert found["recall_at_5"] == 4 / 8
    assert found["recall_at_10"] == 6 / 8
    assert found["mrr"] == pytest.approx(np.mean([1, 1 / 2, 1 / 5, 1 / 6, 1 / 10, 1 / 11, 1 / 200,
                                                  1]))  # fmt: skip
    assert found["ranks"] == {"1": 2, "2": 1, "3": 0, "5": 1, "10": 2, "20": 1, "50": 0, "100": 0,
                              "more": 1}  # fmt: skip


def test_a_score_that_is_no_number_is_below_all_others() -> None:
    known = np.array([1.0, 0.0, 0.0])
    for scores, right in (([np.nan, 0.5, 0.4], known), ([0.4, np.nan, 0.5], known[[2, 0, 1]])):
        found = ranking_metrics([(np.array(scores), right)])
        assert found["mrr"] == found["map"] == pytest.approx(1 / 3)
        assert found["ndcg_at_10"] == pytest.approx(0.5)
    assert ranking_metrics([(np.full(3, np.nan), known)])["mrr"] == pytest.approx(1 / 3)


@given(st.lists(st.floats(0, 1e3, allow_nan=False), min_size=2, max_size=40))
def test_no_list_is_better_than_the_best(relevance: list[float]) -> None:
    """Sums are rounded in two orders; more than 1 would be in no tenth of the histogram."""
    found = np.array(relevance)
    assert ndcg(found, found) <= 1.0
