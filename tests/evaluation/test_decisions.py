"""Metrics of decisions against scikit-learn's, and offsets that are kept only where they help."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wafergpt.evaluation.decisions import (
    class_offsets,
    classes_decided,
    label_offsets,
    labels_decided,
)
from wafergpt.evaluation.metrics import RowScores, classification_metrics, decision_metrics
from wafergpt.evaluation.multi_label import LabelledRowScores, multi_label_metrics

sklearn = pytest.importorskip("sklearn.metrics", reason="metrics are checked against sklearn's")


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 40))
def test_metrics_of_one_label_are_sklearns(seed: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    targets, decided = rng.integers(k, size=(2, n))
    # scikit-learn warns where there is one class in all.
    targets[0], decided[0] = 0, 1
    ours = decision_metrics(np.bincount(targets * k + decided, minlength=k * k).reshape(k, k))
    assert ours["accuracy"] == pytest.approx(sklearn.accuracy_score(targets, decided))
    assert ours["mcc"] == pytest.approx(sklearn.matthews_corrcoef(targets, decided))
    macro = sklearn.f1_score(targets, decided, average="macro", zero_division=0)
    assert ours["macro_f1"] == pytest.approx(macro)
    recalls = sklearn.recall_score(
        targets, decided, average=None, labels=np.unique(targets), zero_division=0
    )
    assert ours["balanced_accuracy"] == pytest.approx(recalls.mean())


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 30))
def test_metrics_of_any_number_of_labels_are_sklearns(seed: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    # Few values, so that there are ties.
    probabilities = rng.integers(1, 10, size=(n, k)) / 10
    targets = rng.integers(2, size=(n, k))
    labels = [str(label) for label in range(k)]
    ours = multi_label_metrics(probabilities, targets, labels)
    decided = (probabilities > 0.5).astype(int)
    assert ours.accuracy == pytest.approx(float((targets == decided).all(1).mean()))
    for average in ("micro", "macro"):
        if k > 1:
            theirs = sklearn.f1_score(targets, decided, average=average, zero_division=0)
            assert getattr(ours, f"{average}_f1") == pytest.approx(theirs)
    if k > 1:
        assert ours.accuracy == pytest.approx(sklearn.accuracy_score(targets, decided))
        assert ours.lrap == pytest.approx(
            sklearn.label_ranking_average_precision_score(targets, probabilities)
        )
    flat = sklearn.log_loss(targets.ravel(), probabilities.ravel(), labels=[0, 1])
    assert ours.loss == pytest.approx(flat)
    rows = LabelledRowScores.of(probabilities, targets)
    assert rows.metrics(np.arange(n))["macro_f1"] == ours.macro_f1
    assert rows.right.mean() == pytest.approx(ours.accuracy)


def rare_class(n: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the right probabilities of three classes, one of them rare, and draws from them."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, 3)) + np.log([0.8, 0.17, 0.03])
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    drawn = (scores + rng.gumbel(size=scores.shape)).argmax(1)
    return probabilities, drawn.astype(np.int64)


@pytest.mark.parametrize("metric", ["macro_f1", "balanced_accuracy"])
def test_a_correction_for_frequent_classes_helps_on_other_rows(metric: str) -> None:
    offsets = class_offsets(*rare_class(600, 0), metric)
    assert offsets is not None
    assert offsets[0] < offsets[1] < offsets[2]
    probabilities, targets = rare_class(5000, 1)
    found = []
    for decided in (None, classes_decided(probabilities, offsets)):
        metrics = classification_metrics(probabilities, targets, ["a", "b", "c"], decided)
        found.append(getattr(metrics, metric))
        assert RowScores.of(probabilities, targets, decided).right.mean() == metrics.accuracy
    assert found[1] > found[0] + 0.01


def test_offsets_that_do_not_help_are_not_kept() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(3, size=400)
    sure = np.eye(3)[targets] * 0.9 + 0.1 / 3
    assert class_offsets(sure, targets, "macro_f1") is None
    assert class_offsets(sure[:5], targets[:5], "macro_f1") is None
    both = np.stack([targets == 0, targets == 1], 1).astype(int)
    assert label_offsets(np.where(both, 0.9, 0.1), both, "micro_f1", each=False) is None


@pytest.mark.parametrize("each", [False, True])
def test_thresholds_of_labels_help_on_other_rows(each: bool) -> None:
    def drawn(n: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        rng = np.random.default_rng(seed)
        odds = 1.5 * rng.normal(size=(n, 4)) + np.array([-3.0, -2.5, -1.0, 1.0])
        probabilities = 1 / (1 + np.exp(-odds))
        return probabilities, (rng.random((n, 4)) < probabilities).astype(np.int64)

    metric = "macro_f1" if each else "micro_f1"
    offsets = label_offsets(*drawn(800, 0), metric, each)
    assert offsets is not None
    assert (len(set(offsets.tolist())) > 1) == each
    probabilities, targets = drawn(5000, 1)
    labels = list("abcd")
    plain = multi_label_metrics(probabilities, targets, labels)
    decided = labels_decided(probabilities, offsets)
    chosen = multi_label_metrics(probabilities, targets, labels, decided)
    assert getattr(chosen, metric) > getattr(plain, metric) + 0.01
    assert (chosen.lrap, chosen.loss) == (plain.lrap, plain.loss)


def test_a_label_that_no_row_has_keeps_one_half() -> None:
    rng = np.random.default_rng(0)
    odds = rng.normal(size=(400, 2)) - 1.0
    probabilities = 1 / (1 + np.exp(-odds))
    targets = (rng.random((400, 2)) < probabilities).astype(np.int64)
    targets[:, 1] = 0
    offsets = label_offsets(probabilities, targets, "macro_f1", each=True)
    assert offsets is not None
    assert offsets[1] == 0.0
