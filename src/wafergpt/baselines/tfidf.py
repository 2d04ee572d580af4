"""Words and pairs of words, weighed by rarity, into logistic regression: hard to beat."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from wafergpt.baselines.result import BaselineResult
from wafergpt.data.tables import Table, encode_labels, label_names
from wafergpt.errors import InputError
from wafergpt.evaluate.classification import judge


def train_tfidf(
    train: Table, test: Table, *, labels: Sequence[str] | None = None, seed: int = 0
) -> BaselineResult:
    """Train TF-IDF of words and bigrams with logistic regression (C = 10), and judge it.

    Raises:
        InputError: if scikit-learn is not installed.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise InputError("this baseline needs scikit-learn: pip install 'wafergpt[demo]'") from None
    start = time.perf_counter()
    labels = labels or label_names(train)
    targets = encode_labels(train, labels, "train")
    # A handful of texts has no word that stands in two of them.
    rarest = 2 if len(train.texts) >= 100 else 1
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), min_df=rarest, sublinear_tf=True, dtype=np.float32
    )
    features = vectorizer.fit_transform(train.texts)
    solver = "liblinear" if len(labels) == 2 else "lbfgs"
    regression = LogisticRegression(C=10, solver=solver, max_iter=1000, random_state=seed)
    regression.fit(features, targets)
    seconds = time.perf_counter() - start
    probabilities = np.zeros((len(test.texts), len(labels)))
    # A label without a training row has no column.
    probabilities[:, regression.classes_] = regression.predict_proba(
        vectorizer.transform(test.texts)
    )
    test_targets = encode_labels(test, labels, "test")
    scores = judge(probabilities, test_targets, labels)
    return BaselineResult("TF-IDF + logistic regression", "tfidf", scores, seconds)
