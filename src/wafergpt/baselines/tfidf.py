"""Words and pairs of words, weighed by rarity, into logistic regression: hard to beat.

Where words are not spaced: runs of one to three characters.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from wafergpt.baselines.requirements import NEEDS_SKLEARN
from wafergpt.baselines.result import BaselineResult
from wafergpt.baselines.units import Units, word_pattern
from wafergpt.data.labelled_rows import Table, encode_labels, label_names
from wafergpt.errors import InputError
from wafergpt.evaluation.metrics import classification_metrics


def train_tfidf(
    train: Table, test: Table, *, labels: Sequence[str] | None = None, seed: int = 0
) -> BaselineResult:
    """Train TF-IDF of n-grams with logistic regression (C = 10), and judge it.

    N-grams are of words, 1 and 2 long, or of characters within words, 1 to 3 long (``Units``).

    Raises:
        InputError: if scikit-learn is not installed.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise InputError(NEEDS_SKLEARN) from None
    start = time.perf_counter()
    labels = labels or label_names(train)
    targets = encode_labels(train, labels, "train")
    units = Units.of(train.texts)
    grams: dict[str, Any] = {"ngram_range": (1, 2), "token_pattern": word_pattern()}
    if units.characters:
        grams = {"ngram_range": (1, 3), "analyzer": "char_wb"}
    # A handful of texts has no word that stands in two of them.
    rarest = 2 if len(train.texts) >= 100 else 1
    vectorizer = TfidfVectorizer(**grams, min_df=rarest, sublinear_tf=True, dtype=np.float32)
    try:
        features = vectorizer.fit_transform(train.texts)
    except ValueError:
        # No two texts have anything in common.
        features = vectorizer.set_params(min_df=1).fit_transform(train.texts)
    solver = "liblinear" if len(labels) == 2 else "lbfgs"
    regression = LogisticRegression(C=10, solver=solver, max_iter=1000, random_state=seed)
    regression.fit(features, targets)
    seconds = time.perf_counter() - start
    probabilities = np.zeros((len(test.texts), len(labels)))
    judged = vectorizer.transform(test.texts)
    # A label without a training row has no column.
    probabilities[:, regression.classes_] = regression.predict_proba(judged)
    test_targets = encode_labels(test, labels, "test")
    scores = classification_metrics(probabilities, test_targets, labels)
    return BaselineResult(
        f"TF-IDF{units.suffix} + logistic regression",
        "tfidf",
        scores,
        probabilities,
        seconds,
        unread=int((judged.getnnz(axis=1) == 0).sum()),
    )
