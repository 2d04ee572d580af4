"""Abstention and inputs of no class, against their definitions and scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.evaluation.selective import (
    answered,
    detection_metrics,
    selective_metrics,
    threshold_for,
)

sklearn = pytest.importorskip("sklearn.metrics", reason="AUROC is checked against sklearn's")


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_the_area_is_the_mean_risk_over_all_coverages(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    confidence, right = rng.random(n), rng.random(n) < 0.7
    order = sorted(range(n), key=lambda row: -confidence[row])
    risks = [np.mean([not right[row] for row in order[:m]]) for m in range(1, n + 1)]
    found = selective_metrics(confidence, right)
    assert found["aurc"] == pytest.approx(np.mean(risks))
    fewest = next(m for m in range(1, n + 1) if m / n >= 0.9 - 1e-9)
    assert found["accuracy_at_90"] == pytest.approx(1 - risks[fewest - 1])
    assert found["risk_coverage"][-1] == pytest.approx([1.0, right.mean()])


def test_so_many_are_answered() -> None:
    assert [answered(n, 0.9) for n in (1, 10, 11, 20)] == [1, 9, 10, 18]
    assert answered(7, 0.01) == 1


def test_equally_certain_answers_count_as_their_mean() -> None:
    right = np.array([True, True, False, False])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        found = selective_metrics(np.full(4, 0.5), right[order])
        assert found["aurc"] == pytest.approx(0.5)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=50, unique=True), st.floats(0.01, 1.0))
def test_a_threshold_answers_the_share(values: list[int], coverage: float) -> None:
    confidence = np.array(values) / 1000
    kept = (confidence >= threshold_for(confidence, coverage)).sum()
    assert kept == answered(len(values), coverage)


@given(st.integers(0, 2**32 - 1), st.integers(1, 50), st.integers(1, 50))
def test_detection_is_sklearns(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    # Few values, so that there are ties.
    inside, outside = rng.integers(3, 12, size=n) / 10, rng.integers(0, 9, size=m) / 10
    targets = np.repeat([1, 0], [n, m])
    scores = np.concatenate([inside, outside])
    auroc, fpr95 = detection_metrics(inside, outside)
    assert auroc == pytest.approx(sklearn.roc_auc_score(targets, scores))
    fpr, tpr, _ = sklearn.roc_curve(targets, scores, drop_intermediate=False)
    assert fpr95 == pytest.approx(fpr[np.argmax(tpr >= 0.95 - 1e-12)])
