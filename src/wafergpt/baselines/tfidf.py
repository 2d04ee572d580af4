"""Words and pairs of words, weighed by rarity, into logistic regression: hard to beat.

Where words are not spaced: runs of one to three characters.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
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
from wafergpt.evaluation.metrics import classification_metrics
from wafergpt.evaluation.multi_label import multi_label_metrics

MAX_SEED = 1 << 32
"""scikit-learn's seeds are below."""


def train_tfidf(
    train: Table,
    test: Table,
    *,
    labels: Sequence[str] | None = None,
    validation: Table | None = None,
    decide: Decide | None = None,
    seed: int = 0,
) -> BaselineResult:
    """Train TF-IDF of n-grams with logistic regression (C = 10), and judge it.

    N-grams are of words, 1 and 2 long, or of characters within words, 1 to 3 long (``Units``).

    Args:
        train: rows to learn from.
        test: rows to evaluate on.
        labels: in order; taken from the training rows if omitted.
        validation: rows that decisions are fitted to.
        decide: offsets of log probabilities by probabilities and classes of the validation rows;
            the most probable class is answered if omitted.
        seed: of the regression.

    Raises:
        InputError: if scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise InputError(NEEDS_SKLEARN) from None
    start = time.perf_counter()
    labels = labels or label_names(train)
    targets = encode_labels(train, labels, "train")
    units = Units.of(train.texts)
    vectorizer, features = _features(train, units)
    settings: dict[str, Any] = {"max_iter": 1000, "random_state": seed % MAX_SEED}
    settings["solver"] = "liblinear" if len(labels) == 2 else "lbfgs"
    regression = LogisticRegression(C=10, **settings)
    regression.fit(features, targets)
    seconds = time.perf_counter() - start

    def judged(table: Table) -> tuple[NDArray[np.float64], Any]:
        seen = vectorizer.transform(table.texts)
        found = np.zeros((len(table.texts), len(labels)))
        # A label without a training row has no column.
        found[:, regression.classes_] = regression.predict_proba(seen)
        return found, seen

    def held_out() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        assert validation is not None, "decisions are fitted to validation rows"
        return judged(validation)[0], encode_labels(validation, labels, "validation")

    probabilities, seen = judged(test)
    decided = classes_answered(probabilities, decide, held_out)
    test_targets = encode_labels(test, labels, "test")
    scores = classification_metrics(probabilities, test_targets, labels, decided)
    return BaselineResult(
        f"TF-IDF{units.suffix} + logistic regression",
        "tfidf",
        scores,
        probabilities,
        seconds,
        unread=int((seen.getnnz(axis=1) == 0).sum()),
        decided=decided,
    )


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
        validation: rows that thresholds are chosen by.
        test: rows to evaluate on.
        labels: in order.
        decide: offsets of log-odds by probabilities and answers of the validation rows; None for
            one half.
        seed: of the regressions.

    Raises:
        InputError: if scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier
    except ImportError:
        raise InputError(NEEDS_SKLEARN) from None
    start = time.perf_counter()
    units = Units.of(train.texts)
    vectorizer, features = _features(train, units)
    regressions = OneVsRestClassifier(
        LogisticRegression(C=10, solver="liblinear", random_state=seed % MAX_SEED)
    )
    regressions.fit(features, encode_label_sets(train, labels, "train"))
    seconds = time.perf_counter() - start

    def judged(table: Table) -> tuple[NDArray[np.float64], Any]:
        seen = vectorizer.transform(table.texts)
        return np.asarray(regressions.predict_proba(seen), dtype=np.float64), seen

    offsets = decide(judged(validation)[0], encode_label_sets(validation, labels, "validation"))
    probabilities, seen = judged(test)
    decided = labels_decided(probabilities, np.array(offsets or 0.0))
    targets = encode_label_sets(test, labels, "test")
    scores = multi_label_metrics(probabilities, targets, labels, decided)
    return BaselineResult(
        f"TF-IDF{units.suffix} + logistic regressions",
        "tfidf",
        scores,
        probabilities,
        seconds,
        unread=int((seen.getnnz(axis=1) == 0).sum()),
        decided=decided,
    )


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
