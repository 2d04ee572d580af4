"""What every baseline gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafergpt.evaluation.decisions import classes_decided
from wafergpt.evaluation.metrics import ClassificationMetrics
from wafergpt.evaluation.multi_label import MultiLabelMetrics

Decide = Callable[[NDArray[np.float64], NDArray[np.int64]], Sequence[float] | None]
"""Offsets by probabilities and answers of validation rows; None if they do not help."""


@dataclass(frozen=True)
class BaselineResult:
    """A trained baseline, judged.

    Attributes:
        name: for people.
        kind: ``bilstm`` or ``tfidf``.
        test: the scores on the test rows, of the model that validation chose.
        probabilities: ``[n, n_labels]`` of the test rows, in their order.
        seconds: of training.
        history: a row for each look at the validation rows.
        last: the scores of the model as training left it, where that is another one.
        unread: test rows in which the model knows no word or character: it guesses.
        decided: the answers, where they are not the most probable class: classes ``[n]``, or with
            any number of labels ``[n, n_labels]``.
        settings: that validation chose, by name.
    """

    name: str
    kind: str
    test: ClassificationMetrics | MultiLabelMetrics
    probabilities: NDArray[np.float64]
    seconds: float
    history: list[dict[str, float]] = field(default_factory=list)
    last: ClassificationMetrics | None = None
    unread: int = 0
    decided: NDArray[np.bool_] | NDArray[np.int64] | None = None
    settings: dict[str, float] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """Return a row of a run's ``comparison.json``."""
        test = self.test.to_dict()
        scores = {key: test[key] for key in ("accuracy", "macro_f1", "loss")}
        row = {
            "name": self.name,
            "kind": self.kind,
            **scores,
            "seconds": self.seconds,
            "settings": self.settings,
            "unread": self.unread,
            "test": test,
        }
        return row if self.last is None else {**row, "last": self.last.to_dict()}


def classes_answered(
    probabilities: NDArray[np.float64],
    decide: Decide | None,
    held_out: Callable[[], tuple[NDArray[np.float64], NDArray[np.int64]]],
) -> NDArray[np.int64] | None:
    """Return the classes that are answered by fitted decisions; None for the most probable ones.

    Args:
        probabilities: ``[n, n_labels]`` of the rows to answer.
        decide: fits them.
        held_out: returns probabilities and classes of validation rows.
    """
    offsets = None if decide is None else decide(*held_out())
    return None if offsets is None else classes_decided(probabilities, np.array(offsets))
