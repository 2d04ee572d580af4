"""Words and pairs of words, weighed by rarity, into logistic regression: hard to beat.

Where words are not spaced: runs of one to three characters.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafergpt.baselines.requirements import NEEDS_SKLEARN
from wafergpt.baselines.result import BaselineResult, Decide, classes_answered
from wafergpt.baselines.units import Units, word_pattern
from wafergpt.data.label_sets import encode_label_sets
from wafergpt.data.labelled_rows import Table, encode_labels, label_names
from wafergpt.errors import InputError
from wafergpt.evaluation.decisions import labels_decided
from wafergpt.evaluation.metrics import ClassificationMetrics, classification_metrics
from wafergpt.evaluation.multi_label import MultiLabelMetrics, multi_label_metrics

MAX_SEED = 1 << 32
"""scikit-learn's seeds are below."""

Probabilities = NDArray[np.float64]

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)
"""C of a regression, the inverse of its L2 penalty: validation rows choose one."""


def train_tfidf(
    train: Table,
    validation: Table,
    test: Table,
    *,
    labels: Sequence[str] | None = None,
    decide: Decide | None = None,
    seed: int = 0,
) -> BaselineResult:
    """Train TF-IDF of n-grams with logistic regression, and judge it.

    N-grams are of words, 1 and 2 long, or of characters within words, 1 to 3 long (``Units``).

    Args:
        train: rows to learn from.
        validation: rows that C is chosen by, and that decisions are fitted to.
        test: rows to evaluate on.
        labels: in order; taken from the training rows if omitted.
        decide: offsets of log probabilities by probabilities and classes of the validation rows;
            the most probable class is answered if omitted.
        seed: of the regression.

    Raises:
        InputError: if scikit-learn is not installed, or there are no validation rows.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise InputError(NEEDS_SKLEARN) from None
    labels = labels or label_names(train)
    targets, held_out, test_targets = (
        encode_labels(table, labels, name)
        for table, name in ((train, "train"), (validation, "validation"), (test, "test"))
    )
    settings: dict[str, Any] = {"max_iter": 1000, "random_state": seed % MAX_SEED}
    settings["solver"] = "liblinear" if len(labels) == 2 else "lbfgs"

    def fitted(c: float, features: Any) -> LogisticRegression:
        return LogisticRegression(C=c, **settings).fit(features, targets)

    def found(regression: LogisticRegression, seen: Any) -> Probabilities:
        probabilities = np.zeros((seen.shape[0], len(labels)))
        # A label without a training row has no column.
        probabilities[:, regression.classes_] = regression.predict_proba(seen)
        return probabilities

    def loss(probabilities: Probabilities) -> float:
        return classification_metrics(probabilities, held_out, labels).loss

    chosen = _chosen(train, validation, test, fitted, found, loss)
    decided = classes_answered(chosen.probabilities, decide, lambda: (chosen.held_out, held_out))
    scores = classification_metrics(chosen.probabilities, test_targets, labels, decided)
    return chosen.result("logistic regression", scores, decided)


def train_tfidf_of_sets(
    train: Table,
    validation: Table,
    test: Table,
    *,
    labels: Sequence[str],
    decide: Decide,
    seed: int = 0,
) -> BaselineResult:
    """Train TF-IDF of n-grams with a logistic regression for each label, and judge it.

    Args:
        train: rows with any number of labels, settled.
        validation: rows that C and the thresholds are chosen by.
        test: rows to evaluate on.
        labels: in order.
        decide: offsets of log-odds by probabilities and answers of the validation rows; None for
            one half.
        seed: of the regressions.

    Raises:
        InputError: if scikit-learn is not installed, or there are no validation rows.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier
    except ImportError:
        raise InputError(NEEDS_SKLEARN) from None
    targets, held_out, test_targets = (
        encode_label_sets(table, labels, name)
        for table, name in ((train, "train"), (validation, "validation"), (test, "test"))
    )

    def fitted(c: float, features: Any) -> OneVsRestClassifier:
        one = LogisticRegression(C=c, solver="liblinear", random_state=seed % MAX_SEED)
        return OneVsRestClassifier(one).fit(features, targets)

    def found(regressions: OneVsRestClassifier, seen: Any) -> Probabilities:
        return np.asarray(regressions.predict_proba(seen), dtype=np.float64)

    def loss(probabilities: Probabilities) -> float:
        return multi_label_metrics(probabilities, held_out, labels).loss

    chosen = _chosen(train, validation, test, fitted, found, loss)
    offsets = decide(chosen.held_out, held_out)
    decided = labels_decided(chosen.probabilities, np.array(offsets or 0.0))
    scores = multi_label_metrics(chosen.probabilities, test_targets, labels, decided)
    return chosen.result("logistic regressions", scores, decided)


@dataclass(frozen=True)
class _Chosen:
    """Regressions whose C the validation rows have chosen.

    Attributes:
        units: that texts consist of.
        c: of the regressions.
        held_out: ``[rows, n_labels]`` probabilities of the validation rows.
        probabilities: of the test rows.
        seconds: of training.
        unread: test rows in which no n-gram is known.
    """

    units: Units
    c: float
    held_out: Probabilities
    probabilities: Probabilities
    seconds: float
    unread: int

    def result(
        self, what: str, scores: ClassificationMetrics | MultiLabelMetrics, decided: Any
    ) -> BaselineResult:
        """Return them as a baseline's result; ``what`` they are stands in its name."""
        return BaselineResult(
            f"TF-IDF{self.units.suffix} + {what}",
            "tfidf",
            scores,
            self.probabilities,
            self.seconds,
            unread=self.unread,
            decided=decided,
            settings={"C": self.c},
        )


def _chosen(
    train: Table,
    validation: Table,
    test: Table,
    fitted: Callable[[float, Any], Any],
    found: Callable[[Any, Any], Probabilities],
    loss: Callable[[Probabilities], float],
) -> _Chosen:
    """Return the regressions whose loss on the validation rows is lowest.

    C goes from the middle of ``STRENGTHS`` outwards, as long as the loss falls: it has one minimum,
    nearly.

    Args:
        train: rows to learn from.
        validation: rows that C is chosen by.
        test: rows to evaluate on.
        fitted: makes regressions by C and the features of the training rows.
        found: returns their probabilities for features.
        loss: of probabilities of the validation rows.

    Raises:
        InputError: if there are no validation rows.
    """
    if not validation.texts:
        raise InputError("there are no validation rows to choose C by")
    start = time.perf_counter()
    units = Units.of(train.texts)
    vectorizer, features = _features(train, units)
    checked, seen = (vectorizer.transform(table.texts) for table in (validation, test))

    @functools.cache
    def tried(place: int) -> tuple[Any, Probabilities, float]:
        regressions = fitted(STRENGTHS[place], features)
        probabilities = found(regressions, checked)
        return regressions, probabilities, loss(probabilities)

    best, place = -1, len(STRENGTHS) // 2
    while best != place:
        best = place
        near = range(max(0, best - 1), min(best + 2, len(STRENGTHS)))
        place = min(near, key=lambda one: tried(one)[2])
    regressions, held_out, _ = tried(best)
    seconds = time.perf_counter() - start
    unread = int((seen.getnnz(axis=1) == 0).sum())
    return _Chosen(units, STRENGTHS[best], held_out, found(regressions, seen), seconds, unread)


def _features(train: Table, units: Units) -> tuple[Any, Any]:
    """Return the vectorizer, fitted, and the features of the training rows."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    grams: dict[str, Any] = {"ngram_range": (1, 2), "token_pattern": word_pattern()}
    if units.characters:
        grams = {"ngram_range": (1, 3), "analyzer": "char_wb"}
    # A handful of texts has no word that stands in two of them.
    rarest = 2 if len(train.texts) >= 100 else 1
    vectorizer = TfidfVectorizer(**grams, min_df=rarest, sublinear_tf=True, dtype=np.float32)
    try:
        return vectorizer, vectorizer.fit_transform(train.texts)
    except ValueError:
        # No two texts have anything in common.
        vectorizer.set_params(min_df=1)
        return vectorizer, vectorizer.fit_transform(train.texts)
