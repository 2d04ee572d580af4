"""The GPT of the benchmarks, its rivals, tuned as their friends would, and how all are judged.

Linear ones choose their C on a tenth of the training rows and are fitted again on all of them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from benchmarks.labelled_sets import Pairs
from wafergpt import atomic_files
from wafergpt.api import finetune
from wafergpt.baselines.bilstm import train_bilstm
from wafergpt.data.labelled_rows import Table
from wafergpt.data.labelled_split import hold_out_of_each_class
from wafergpt.evaluation.intervals import Bootstrap, Difference
from wafergpt.runs.run import OUTPUTS, Run
from wafergpt.tasks.classify_settings import ClassifySettings
from wafergpt.tasks.tables import VALIDATION_SHARE

Found = tuple[NDArray[np.float64], list[str]]
"""Probabilities ``[rows, labels]`` and the labels."""


def linear(kind: str, train: Pairs, test: Pairs) -> Found:
    """Fit TF-IDF of ``words`` or ``characters``, or ``nb-svm``; return what is found for test."""
    from sklearn.metrics import log_loss

    fit: Callable[..., Found] = _naive_bayes if kind == "nb-svm" else _logistic
    rates = (0.03, 0.1, 0.3, 1.0, 4.0) if kind == "nb-svm" else (1.0, 3.0, 10.0, 30.0, 100.0)
    features = _features(kind, train)
    texts, labels = (list(part) for part in zip(*train, strict=True))
    held = np.random.default_rng(0).permutation(len(train)) < max(1, len(train) // 10)
    known = {label for label, out in zip(labels, held, strict=True) if not out}
    held &= np.array([label in known for label in labels])
    inner = [i for i in range(len(train)) if not held[i]]
    outer = [i for i in range(len(train)) if held[i]]
    seen = features.fit_transform([texts[i] for i in inner])
    checked = features.transform([texts[i] for i in outer])

    def loss(c: float) -> float:
        found, names = fit(c, seen, [labels[i] for i in inner], checked)
        return float(log_loss([labels[i] for i in outer], found, labels=names))

    best = min(rates, key=loss)
    whole = features.fit_transform(texts)
    return fit(best, whole, labels, features.transform([text for text, _ in test]))


def _features(kind: str, train: Pairs) -> Any:
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

    if kind == "nb-svm":
        return CountVectorizer(ngram_range=(1, 3), binary=True, token_pattern=r"\w+|[^\w\s]")
    if kind == "words":
        return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    chinese = sum("\u4e00" <= c <= "\u9fff" for text, _ in train[:50] for c in text) > 100
    span = {"analyzer": "char", "ngram_range": (1, 3)} if chinese else {
        "analyzer": "char_wb", "ngram_range": (1, 5)}  # fmt: skip
    return TfidfVectorizer(sublinear_tf=True, min_df=2, max_features=300_000, **span)


def _logistic(c: float, features: Any, labels: list[str], judged: Any) -> Found:
    from sklearn.linear_model import LogisticRegression

    solver = "liblinear" if len(set(labels)) == 2 else "lbfgs"
    model = LogisticRegression(C=c, solver=solver, max_iter=300).fit(features, labels)
    return model.predict_proba(judged), list(model.classes_)


def _naive_bayes(c: float, features: Any, labels: list[str], judged: Any) -> Found:
    """Weigh n-grams by their log-count ratios (Wang and Manning, ACL 2012), each label apart.

    With a logistic loss in place of the hinge, so that there are probabilities.
    """
    from sklearn.linear_model import LogisticRegression

    names, answers = sorted(set(labels)), np.array(labels)
    columns = []
    for name in names[1:] if len(names) == 2 else names:
        own = answers == name
        counts = [np.asarray(features[rows].sum(0))[0] + 1.0 for rows in (own, ~own)]
        ratio = np.log(counts[0] / counts[0].sum()) - np.log(counts[1] / counts[1].sum())
        model = LogisticRegression(C=c, solver="liblinear", max_iter=300)
        model.fit(features.multiply(ratio).tocsr(), own)
        columns.append(model.predict_proba(judged.multiply(ratio).tocsr())[:, 1])
    if len(names) == 2:
        columns = [1.0 - columns[0], columns[0]]
    found = np.stack(columns, 1)
    return found / found.sum(1, keepdims=True), names


def bilstm(train: Pairs, test: Pairs, seed: int) -> Found:
    """Train the BiLSTM; its best epoch on held-out rows is judged."""
    kept, held, _ = hold_out_of_each_class(_table(train), VALIDATION_SHARE)
    labels = sorted({label for _, label in train})
    found = train_bilstm(kept, held, _table(test), labels=labels, seed=seed)
    return found.probabilities, labels


def _table(rows: Pairs) -> Table:
    return Table([text for text, _ in rows], [label for _, label in rows])


class Judged:
    """What a model found for test rows, beside their labels.

    Attributes:
        metrics: accuracy and loss.
    """

    def __init__(self, found: Found, test: Pairs) -> None:
        probabilities, labels = found
        answers = np.array([labels.index(label) for _, label in test])
        self._right = probabilities.argmax(1) == answers
        own = probabilities[np.arange(len(answers)), answers]
        loss = float(-np.log(own + 1e-15).mean())
        self.metrics = {"accuracy": float(self._right.mean()), "loss": loss}

    def above(self, rival: Judged) -> Difference:
        """Return how far the accuracy is above a rival's on the same rows."""
        own, other = (Bootstrap.of(one._accuracy, len(one._right)) for one in (self, rival))
        return own.minus(other, "accuracy")

    def _accuracy(self, rows: NDArray[np.int64]) -> dict[str, float]:
        return {"accuracy": float(self._right[rows].mean())}


def of_run(run: Run) -> Found:
    """Return what a run found for its test rows."""
    task = run.recipe.task
    assert isinstance(task, ClassifySettings)
    return load_file(run.path / OUTPUTS)["test/probabilities"], list(task.labels)


def write(path: Path, rows: Pairs) -> Path:
    """Write rows as JSONL; return where."""
    lines = (json.dumps({"text": text, "label": label}) for text, label in rows)
    atomic_files.write_text(path, "\n".join(lines) + "\n")
    return path


def gpt(start: str | Run, train: Pairs, test: Pairs, out: Path, asked: Sequence[str] = ()) -> Found:
    """Fine-tune a GPT without a recipe; return what is found for test.

    Args:
        start: as in ``finetune``.
        train: rows.
        test: rows.
        out: folder of the rows and of the runs, which are made anew.
        asked: overrides.
    """
    for name in ("run", "run-held-out"):
        shutil.rmtree(out / name, ignore_errors=True)
    files = [f"task.{part}={write(out / f'{part}.jsonl', rows)}"
             for part, rows in (("train", train), ("test", test))]  # fmt: skip
    return of_run(finetune(start, None, [*files, *asked, "name=run"], root=out).run)
