"""How good a classifier is on rows whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST = 1e-12
"""A probability below this counts as this in a loss."""


@dataclass(frozen=True)
class ClassScore:
    """One label's scores; a quotient without cases is 0."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ClassificationMetrics:
    """A classifier's scores.

    Attributes:
        accuracy: share of right answers.
        macro_f1: mean F1 over the labels that occur or are predicted.
        balanced_accuracy: mean recall over the labels that occur.
        mcc: Matthews' correlation coefficient, of many classes (Gorodkin, 2004).
        loss: mean negative log probability of the right answer, in nats.
        labels: in the order of the columns.
        per_class: scores of each label.
        confusion: counts; rows are the truth, columns the prediction.
    """

    accuracy: float
    macro_f1: float
    balanced_accuracy: float
    mcc: float
    loss: float
    labels: tuple[str, ...]
    per_class: tuple[ClassScore, ...]
    confusion: list[list[int]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        lists = {"labels": list(self.labels), "per_class": [asdict(c) for c in self.per_class]}
        return {**asdict(self), **lists}


@dataclass(frozen=True)
class RowScores:
    """A classifier's answers row by row, for the metrics of any selection of rows.

    Attributes:
        pairs: ``[n]``, right class · n_labels + predicted class.
        losses: ``[n]``, negative log probability of the right class.
        n_labels: the number of classes.
    """

    pairs: NDArray[np.int64]
    losses: NDArray[np.float64]
    n_labels: int

    @classmethod
    def of(
        cls,
        probabilities: NDArray[np.floating],
        targets: NDArray[np.int64],
        decided: NDArray[np.int64] | None = None,
    ) -> RowScores:
        """Read them from probabilities, as ``classification_metrics`` takes them."""
        n, k = probabilities.shape
        right = probabilities[np.arange(n), targets].astype(np.float64)
        losses = -np.log(np.maximum(right, LEAST))
        decided = probabilities.argmax(1) if decided is None else decided
        return cls(targets * k + decided, losses, k)

    @property
    def right(self) -> NDArray[np.bool_]:
        """``[n]``, whether each answer is right."""
        targets, predicted = np.divmod(self.pairs, self.n_labels)
        return np.asarray(targets == predicted)

    def confusion(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the counts of rows, by right class and predicted class."""
        k = self.n_labels
        return np.bincount(self.pairs[rows], minlength=k * k).reshape(k, k)

    def metrics(self, rows: NDArray[np.int64]) -> dict[str, float]:
        """Return ``decision_metrics`` and the loss of rows, given by number, possibly repeated."""
        targets, predicted = np.divmod(self.pairs[rows], self.n_labels)
        found = targets, predicted, targets[targets == predicted]
        counts = (np.bincount(one, minlength=self.n_labels) for one in found)
        return {**_of_counts(*counts), "loss": float(self.losses[rows].mean())}


def decision_metrics(confusion: NDArray[np.int64]) -> dict[str, float]:
    """Return the metrics of decisions alone: accuracy, macro_f1, balanced_accuracy and mcc.

    Args:
        confusion: ``[n_labels, n_labels]`` counts, by right class and decision.
    """
    return _of_counts(confusion.sum(1), confusion.sum(0), np.diag(confusion))


def _of_counts(
    truth: NDArray[np.int64], guesses: NDArray[np.int64], hits: NDArray[np.int64]
) -> dict[str, float]:
    """Return ``decision_metrics`` by counts ``[n_labels]`` of each class, and of right answers."""
    f1, n = _f1(truth, guesses, hits), int(truth.sum())
    truth, guesses = truth.astype(np.float64), guesses.astype(np.float64)
    spread = np.sqrt((n**2 - guesses @ guesses) * (n**2 - truth @ truth))
    return {
        "accuracy": float(hits.sum() / n),
        "macro_f1": float(f1[(truth + guesses) > 0].mean()),
        "balanced_accuracy": float((hits[truth > 0] / truth[truth > 0]).mean()),
        # Where all is of one class, or all is answered alike, there is no correlation.
        "mcc": float((hits.sum() * n - truth @ guesses) / spread) if spread else 0.0,
    }


def _f1(
    truth: NDArray[np.int64], guesses: NDArray[np.int64], hits: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the F1 of each class; 0 of one that neither occurs nor is predicted."""
    return np.asarray(2 * hits / np.maximum(truth + guesses, 1))


def classification_metrics(
    probabilities: NDArray[np.floating],
    targets: NDArray[np.int64],
    labels: Sequence[str],
    decided: NDArray[np.int64] | None = None,
) -> ClassificationMetrics:
    """Compute a classifier's metrics from its predictions.

    Args:
        probabilities: ``[n, n_labels]``; a probability below 1e-12 counts as that in the loss.
        targets: ``[n]`` right classes.
        labels: names of the classes.
        decided: ``[n]`` classes that are answered; the most probable ones if omitted.

    Raises:
        ValueError: if there are no rows, or shapes do not fit.
    """
    n, k = probabilities.shape
    if not n or targets.shape != (n,) or k != len(labels):
        raise ValueError(f"{targets.shape} targets and {len(labels)} labels do not fit {n}×{k}")
    rows = RowScores.of(probabilities, targets, decided)
    confusion = rows.confusion(np.arange(n))
    hits, truth, guesses = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    precision = hits / np.maximum(guesses, 1)
    recall = hits / np.maximum(truth, 1)
    f1 = _f1(truth, guesses, hits)
    return ClassificationMetrics(
        **decision_metrics(confusion),
        loss=float(rows.losses.mean()),
        labels=tuple(labels),
        per_class=tuple(
            ClassScore(label, float(p), float(r), float(f), int(s))
            for label, p, r, f, s in zip(labels, precision, recall, f1, truth, strict=True)
        ),
        confusion=confusion.tolist(),
    )


def classification_mistakes(
    probabilities: NDArray[np.floating],
    decided: NDArray[np.int64],
    targets: NDArray[np.int64],
    labels: Sequence[str],
    texts: Sequence[str],
) -> list[dict[str, Any]]:
    """List the rows with another label, by the loss of the true one.

    Args:
        probabilities: ``[n, n_labels]``.
        decided: ``[n]``, the classes that are answered.
        targets: ``[n]``, the true ones; -1 for rows of none, which have no right answer.
        labels: names of the classes.
        texts: of the rows, for people.

    Returns:
        A row of a table for each.
    """
    rows = np.arange(len(targets))
    losses = -np.log(np.maximum(probabilities[rows, targets], np.finfo(float).tiny))
    wrong = np.flatnonzero((decided != targets) & (targets >= 0))
    return [
        {
            "text": texts[row],
            "label": labels[targets[row]],
            "predicted": labels[decided[row]],
            "probability": float(probabilities[row, decided[row]]),
            "loss": float(losses[row]),
        }
        for row in wrong[np.argsort(-losses[wrong], kind="stable")].tolist()
    ]
