"""Words and pairs of words, weighed by rarity, into logistic regression: hard to beat.

Where words are not spaced: runs of one to three characters.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
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
    if not validation.texts:
        raise InputError("there are no validation rows to choose C by")
    start = time.perf_counter()
    labels = labels or label_names(train)
    targets, held_out = (
        encode_labels(table, labels, name)
        for table, name in ((train, "train"), (validation, "validation"))
    )
    units = Units.of(train.texts)
    vectorizer, features = _features(train, units)
    settings: dict[str, Any] = {"max_iter": 1000, "random_state": seed % MAX_SEED}
    settings["solver"] = "liblinear" if len(labels) == 2 else "lbfgs"

    def fitted(c: float) -> LogisticRegression:
        return LogisticRegression(C=c, **settings).fit(features, targets)

    def found(regression: LogisticRegression, seen: Any) -> NDArray[np.float64]:
        probabilities = np.zeros((seen.shape[0], len(labels)))
        # A label without a training row has no column.
        probabilities[:, regression.classes_] = regression.predict_proba(seen)
        return probabilities

    checked, seen = (vectorizer.transform(table.texts) for table in (validation, test))
    regression = _lowest(
        fitted,
        lambda one: classification_metrics(found(one, checked), held_out, labels).loss,
    )
    seconds = time.perf_counter() - start
    probabilities = found(regression, seen)
    decided = classes_answered(
        probabilities, decide, lambda: (found(regression, checked), held_out)
    )
    test_targets = encode_labels(test, labels, "test")
    return BaselineResult(
        f"TF-IDF{units.suffix} + logistic regression",
        "tfidf",
        classification_metrics(probabilities, test_targets, labels, decided),
        probabilities,
        seconds,
        settings={"C": regression.C},
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
    if not validation.texts:
        raise InputError("there are no validation rows to choose C by")
    start = time.perf_counter()
    targets, held_out = (
        encode_label_sets(table, labels, name)
        for table, name in ((train, "train"), (validation, "validation"))
    )
    units = Units.of(train.texts)
    vectorizer, features = _features(train, units)

    def fitted(c: float) -> OneVsRestClassifier:
        one = LogisticRegression(C=c, solver="liblinear", random_state=seed % MAX_SEED)
        return OneVsRestClassifier(one).fit(features, targets)

    def found(regressions: OneVsRestClassifier, seen: Any) -> NDArray[np.float64]:
        return np.asarray(regressions.predict_proba(seen), dtype=np.float64)

    checked, seen = (vectorizer.transform(table.texts) for table in (validation, test))
    regressions = _lowest(
        fitted,
        lambda each: multi_label_metrics(found(each, checked), held_out, labels).loss,
    )
    seconds = time.perf_counter() - start
    offsets = decide(found(regressions, checked), held_out)
    probabilities = found(regressions, seen)
    decided = labels_decided(probabilities, np.array(offsets or 0.0))
    test_targets = encode_label_sets(test, labels, "test")
    return BaselineResult(
        f"TF-IDF{units.suffix} + logistic regressions",
        "tfidf",
        multi_label_metrics(probabilities, test_targets, labels, decided),
        probabilities,
        seconds,
        settings={"C": regressions.estimator.C},
        unread=int((seen.getnnz(axis=1) == 0).sum()),
        decided=decided,
    )


def _lowest(fitted: Callable[[float], Any], loss: Callable[[Any], float]) -> Any:
    """Return the regression whose validation loss is lowest.

    From the middle of ``STRENGTHS`` outwards, as long as it falls: with C, it falls and rises.
    """
    regression = functools.cache(lambda place: fitted(STRENGTHS[place]))
    loss_at = functools.cache(lambda place: loss(regression(place)))
    best, place = -1, len(STRENGTHS) // 2
    while best != place:
        best = place
        near = range(max(0, best - 1), min(best + 2, len(STRENGTHS)))
        place = min(near, key=loss_at)
    return regression(best)


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
