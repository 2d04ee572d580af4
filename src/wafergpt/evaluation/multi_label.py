"""How good a classifier is that gives each row any number of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafergpt.evaluation.metrics import LEAST, ClassScore


@dataclass(frozen=True)
class MultiLabelMetrics:
    """A classifier's scores; a quotient without cases is 0, as for scikit-learn.

    Attributes:
        accuracy: share of rows with exactly the right labels (exact match).
        micro_f1: F1 over all decisions.
        macro_f1: mean F1 over the labels.
        lrap: label ranking average precision (Schapire and Singer, 2000).
        loss: mean binary cross-entropy over rows and labels, in nats.
        labels: in the order of the columns.
        per_class: scores of each label.
    """

    accuracy: float
    micro_f1: float
    macro_f1: float
    lrap: float
    loss: float
    labels: tuple[str, ...]
    per_class: tuple[ClassScore, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        lists = {"labels": list(self.labels), "per_class": [asdict(c) for c in self.per_class]}
        return {**asdict(self), **lists}


@dataclass(frozen=True)
class LabelledRowScores:
    """A classifier's answers row by row, for the metrics of any selection of rows.

    Attributes:
        targets: ``[n, n_labels]``, whether a label is right.
        decided: ``[n, n_labels]``, whether it is answered.
        losses: ``[n]``, mean binary cross-entropy over the labels.
        scores: ``[n, n_labels]``, by which labels are ranked.
    """

    targets: NDArray[np.bool_]
    decided: NDArray[np.bool_]
    losses: NDArray[np.float64]
    scores: NDArray[np.floating]

    @classmethod
    def of(
        cls,
        probabilities: NDArray[np.floating],
        targets: NDArray[np.integer],
        decided: NDArray[np.bool_] | None = None,
    ) -> LabelledRowScores:
        """Read them from probabilities, as ``multi_label_metrics`` takes them."""
        found, wanted = probabilities.astype(np.float64), targets > 0
        right = np.where(wanted, found, 1 - found)
        losses = -np.log(np.maximum(right, LEAST)).mean(1)
        return cls(wanted, found > 0.5 if decided is None else decided > 0, losses, probabilities)

    @property
    def right(self) -> NDArray[np.bool_]:
        """``[n]``, whether each answer is exactly right."""
        return np.asarray((self.targets == self.decided).all(1))

    @cached_property
    def lrap(self) -> NDArray[np.float64]:
        """``[n]``, the share of right labels among those ranked at least as high as a right one."""
        found = np.ones(len(self.targets))
        for place, (row, wanted) in enumerate(zip(-self.scores, self.targets, strict=True)):
            if wanted.any() and not wanted.all():
                right = np.sort(row[wanted])
                above = np.searchsorted(np.sort(row), right, side="right")
                found[place] = (np.searchsorted(right, right, side="right") / above).mean()
        return found

    def metrics(self, rows: NDArray[np.int64]) -> dict[str, float]:
        """Return accuracy, both F1, lrap and loss of rows, given by number, possibly repeated."""
        found = set_metrics(self.targets[rows], self.decided[rows])
        means = {"lrap": self.lrap[rows].mean(), "loss": self.losses[rows].mean()}
        return {**found, **{name: float(mean) for name, mean in means.items()}}


def set_metrics(targets: NDArray[np.bool_], decided: NDArray[np.bool_]) -> dict[str, float]:
    """Return the metrics of decisions alone: accuracy, micro_f1 and macro_f1.

    Args:
        targets: ``[n, n_labels]``, whether a label is right.
        decided: ``[n, n_labels]``, whether it is answered.
    """
    hits = (targets & decided).sum(0)
    cases = targets.sum(0) + decided.sum(0)
    return {
        "accuracy": float((targets == decided).all(1).mean()),
        "micro_f1": float(2 * hits.sum() / max(cases.sum(), 1)),
        "macro_f1": float((2 * hits / np.maximum(cases, 1)).mean()),
    }


def multi_label_metrics(
    probabilities: NDArray[np.floating],
    targets: NDArray[np.integer],
    labels: Sequence[str],
    decided: NDArray[np.bool_] | None = None,
) -> MultiLabelMetrics:
    """Compute the metrics of answers with any number of labels.

    Args:
        probabilities: ``[n, n_labels]`` of each label by itself.
        targets: ``[n, n_labels]``, 1 for right labels.
        labels: their names.
        decided: ``[n, n_labels]``, the answers; labels above one half if omitted.

    Raises:
        ValueError: if there are no rows, or shapes do not fit.
    """
    if not len(targets) or not probabilities.shape == targets.shape == (len(targets), len(labels)):
        raise ValueError(f"{targets.shape} targets do not fit {probabilities.shape} probabilities")
    rows = LabelledRowScores.of(probabilities, targets, decided)
    hits = (rows.targets & rows.decided).sum(0)
    truth, guesses = rows.targets.sum(0), rows.decided.sum(0)
    precision, recall = hits / np.maximum(guesses, 1), hits / np.maximum(truth, 1)
    f1 = 2 * hits / np.maximum(truth + guesses, 1)
    return MultiLabelMetrics(
        **rows.metrics(np.arange(len(targets))),
        labels=tuple(labels),
        per_class=tuple(
            ClassScore(label, float(p), float(r), float(f), int(s))
            for label, p, r, f, s in zip(labels, precision, recall, f1, truth, strict=True)
        ),
    )
