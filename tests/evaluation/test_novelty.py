"""Scores of unlike texts, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wafergpt.evaluation.novelty import (
    SHRUNK,
    mahalanobis,
    nearest,
    novelty_metrics,
)

few = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


@pytest.mark.slow
@settings(max_examples=100)
@given(few, few)
def test_precision_is_that_of_scikit_learn(wanted: list[int], others: list[int]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores, truth = [*wanted, *others], [1] * len(wanted) + [0] * len(others)
    both = novelty_metrics(np.array(wanted, float), np.array(others, float))
    expected = metrics.average_precision_score(truth, scores)
    assert both["aupr_in"] == pytest.approx(expected)
    assert both["auroc"] == pytest.approx(metrics.roc_auc_score(truth, scores))
    flipped = metrics.average_precision_score([1 - one for one in truth], [-s for s in scores])
    assert both["aupr_out"] == pytest.approx(flipped)


def test_distances_are_those_of_scikit_learn() -> None:
    covariance = pytest.importorskip("sklearn.covariance")
    neighbors = pytest.importorskip("sklearn.neighbors")
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 300)
    centres = rng.normal(size=(3, 5)) * 4
    train = centres[targets] + rng.normal(size=(300, 5)) @ np.diag([1, 2, 0.5, 1, 3])
    asked = np.concatenate([train[:20], rng.normal(size=(20, 5)) * 9])
    means = np.stack([train[targets == one].mean(0) for one in range(3)])
    fitted = covariance.ShrunkCovariance(assume_centered=True, shrinkage=0.0)
    fitted.fit(train - means[targets])
    matrix = fitted.covariance_ + SHRUNK * np.trace(fitted.covariance_) / 5 * np.eye(5)
    apart = asked[:, None] - means[None]
    wanted = -np.einsum("mcw,wv,mcv->mc", apart, np.linalg.inv(matrix), apart).min(1)
    found = mahalanobis(train, targets, asked)
    assert found == pytest.approx(wanted)
    assert novelty_metrics(found[:20], found[20:])["auroc"] > 0.95
    known = neighbors.NearestNeighbors(n_neighbors=10, metric="cosine").fit(train)
    wanted = 1 - known.kneighbors(asked)[0][:, -1]
    assert nearest(train, asked, 10) == pytest.approx(wanted)
    assert nearest(train[:3], asked, 10) == pytest.approx(nearest(train[:3], asked, 3))


def test_a_direction_without_spread_is_no_fault() -> None:
    train = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
    found = mahalanobis(train, np.zeros(3, dtype=np.int64), np.array([[2.0, 1.0], [2.0, 2.0]]))
    assert found[0] == pytest.approx(0)
    assert found[1] < -100
    assert np.isfinite(nearest(np.zeros((2, 2)), train)).all()
