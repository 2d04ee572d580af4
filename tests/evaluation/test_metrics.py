from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wafergpt.evaluation.metrics import RowScores, classification_metrics
from wafergpt.evaluation.regression import regression_metrics


@given(n=st.integers(1, 60), k=st.integers(2, 6), used=st.integers(1, 6), seed=st.integers(0, 999))
@settings(max_examples=60)
def test_scores_equal_sklearn(n: int, k: int, used: int, seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="the parity tests need scikit-learn")
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(k, 0.3), n)
    # Some classes never occur, some are never predicted.
    targets = rng.integers(0, min(used, k), n)
    labels = [f"class {i}" for i in range(k)]
    ours = classification_metrics(probabilities, targets, labels)
    predicted = probabilities.argmax(1)
    classes = list(range(k))
    assert ours.accuracy == pytest.approx(metrics.accuracy_score(targets, predicted))
    # By default sklearn, too, averages over the labels that occur or are predicted.
    macro = metrics.f1_score(targets, predicted, average="macro", zero_division=0)
    assert ours.macro_f1 == pytest.approx(macro)
    clipped = np.clip(probabilities, 1e-12, 1)
    loss = -np.log(clipped[np.arange(n), targets]).mean()
    assert ours.loss == pytest.approx(loss)
    matrix = metrics.confusion_matrix(targets, predicted, labels=classes)
    assert ours.confusion == matrix.tolist()
    table = metrics.precision_recall_fscore_support(
        targets, predicted, labels=classes, zero_division=0
    )
    for row, precision, recall, f1, support in zip(ours.per_class, *table, strict=True):
        assert (row.precision, row.recall, row.f1, row.support) == pytest.approx(
            (precision, recall, f1, support)
        )


def test_log_loss_equals_sklearn() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="the parity tests need scikit-learn")
    rng = np.random.default_rng(0)
    probabilities, targets = rng.dirichlet([1, 1, 1], 50), rng.integers(0, 3, 50)
    ours = classification_metrics(probabilities, targets, ["a", "b", "c"]).loss
    assert ours == pytest.approx(metrics.log_loss(targets, probabilities, labels=[0, 1, 2]))


def test_certain_and_wrong_is_a_finite_loss() -> None:
    assert classification_metrics(
        np.array([[1.0, 0.0]]), np.array([1]), ["a", "b"]
    ).loss == pytest.approx(27.63, 0.01)


def test_shapes_must_fit() -> None:
    for shape, n, labels in (((0, 2), 0, 2), ((3, 2), 2, 2), ((3, 2), 3, 3)):
        with pytest.raises(ValueError, match="do not fit"):
            classification_metrics(np.ones(shape), np.zeros(n, dtype=np.int64), ["x"] * labels)


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=30))
def test_regression_scores_equal_sklearn(pairs: list[tuple[float, float]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="the parity tests need scikit-learn")
    predictions, targets = np.array(pairs).T
    ours = regression_metrics(predictions, targets)
    assert ours.loss == pytest.approx(metrics.mean_squared_error(targets, predictions))
    assert ours.mean_absolute_error == pytest.approx(
        metrics.mean_absolute_error(targets, predictions)
    )
    if np.ptp(targets) > 1e-3:
        assert ours.r2 == pytest.approx(metrics.r2_score(targets, predictions), abs=1e-6)


def test_numbers_that_are_all_alike_correlate_with_nothing() -> None:
    alike, apart = np.full(3, 0.1), np.array([0.1, 0.2, 0.3])
    for found, wanted in ((apart, alike), (alike, apart), (np.full(6, 0.1), np.full(6, 0.7))):
        ours = regression_metrics(found, wanted)
        assert (ours.pearson, ours.spearman) == (0, 0)
        assert ours.r2 == (pytest.approx(-1.5) if wanted is apart else 0)
    assert regression_metrics(alike, alike).r2 == 1


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(st.integers(1, 60), st.integers(2, 5), st.integers(0, 99))
def test_metrics_of_a_selection_are_those_of_its_rows(n: int, k: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(k), size=n)
    targets = generator.integers(k, size=n)
    rows = generator.integers(n, size=n)
    found = RowScores.of(probabilities, targets)
    labels = [f"{label}" for label in range(k)]
    expected = classification_metrics(probabilities[rows], targets[rows], labels)
    names = ("accuracy", "macro_f1", "balanced_accuracy", "mcc", "loss")
    assert found.metrics(rows) == pytest.approx({name: getattr(expected, name) for name in names})
    sklearn = pytest.importorskip("sklearn.metrics", reason="the parity tests need scikit-learn")
    known, chosen = targets[rows], probabilities[rows]
    guesses = chosen.argmax(1)
    assert expected.accuracy == pytest.approx(sklearn.accuracy_score(known, guesses))
    assert expected.macro_f1 == pytest.approx(sklearn.f1_score(known, guesses, average="macro"))
    assert expected.mcc == pytest.approx(sklearn.matthews_corrcoef(known, guesses))
    assert expected.loss == pytest.approx(sklearn.log_loss(known, chosen, labels=range(k)))
    assert found.right[rows].mean() == pytest.approx(expected.accuracy)
