from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import vstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline

from wafergpt.baselines import bilstm
from wafergpt.baselines.bilstm import LENGTH, UNKNOWN, Words, train_bilstm
from wafergpt.baselines.tfidf import train_tfidf
from wafergpt.baselines.units import Units, word_pattern
from wafergpt.data.labelled_rows import Table
from wafergpt.errors import InputError


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads for so small a network mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def table(n: int, seed: int, labels: tuple[str, ...] = ("no", "yes")) -> Table:
    """Return texts whose label is which of two words comes last: order matters."""
    rng = random.Random(seed)
    texts, answers = [], []
    for _ in range(n):
        label = rng.choice(labels)
        texts.append(" ".join([*rng.choices(labels, k=4), *["then"] * rng.randint(0, 3), label]))
        answers.append(label)
    return Table(texts, answers)


def unspaced(n: int, seed: int) -> Table:
    """Return texts without spaces, whose label is which of two pairs of ideographs they hold."""
    rng = random.Random(seed)
    texts, answers = [], []
    for _ in range(n):
        label = rng.choice(("坏", "好"))
        filler = [chr(rng.randrange(0x4E00, 0x4E80)) for _ in range(6)]
        filler.insert(rng.randrange(7), "喜欢" if label == "好" else "讨厌")
        texts.append("".join(filler))
        answers.append(label)
    return Table(texts, answers)


def test_words_are_the_last_ones_and_numbered_by_frequency() -> None:
    words = Words(["a a a b b c"], Units())
    assert words.encode("a b c d A").tolist() == [2, 3, 4, UNKNOWN, 2]
    assert words.encode("…").tolist() == [UNKNOWN]
    assert words.encode("c " * 10 + "a " * LENGTH).tolist() == [2] * LENGTH


@pytest.mark.parametrize("labels", [("no", "yes"), ("one", "two", "three")])
def test_the_bilstm_learns_order_where_words_alone_do_not(labels: tuple[str, ...]) -> None:
    parts = [table(n, seed, labels) for seed, n in enumerate((400, 100, 100))]
    result = train_bilstm(*parts, epochs=10)
    assert result.test.accuracy > 0.97
    assert [row["epoch"] for row in result.history] == [float(e) for e in range(1, 11)]
    best = max(row["val_accuracy"] for row in result.history)
    assert best > 0.95
    assert result.last is not None
    assert result.to_row()["last"]["accuracy"] == result.last.accuracy


@pytest.mark.parametrize("limit", [None, 8.0])
def test_the_best_weights_are_given_back_also_at_a_time_limit(
    monkeypatch: pytest.MonkeyPatch, limit: float | None
) -> None:
    """The answers to judge by are the wrong ones: the more it learns, the worse it is.

    Every look finds as few right answers as the first one, which is then the best.
    """
    clock = itertools.count()
    monkeypatch.setattr(bilstm, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    train = Table(["never", "always"] * 20, ["no", "yes"] * 20)
    judged = Table(["never", "always"] * 10, ["yes", "no"] * 10)
    result = train_bilstm(train, judged, judged, epochs=8, seconds=limit)
    assert (result.history[-1]["epoch"] < 8) == (limit is not None)
    assert all(np.isfinite(list(row.values())).all() for row in result.history)
    first, *_, last = result.history
    assert first["val_accuracy"] == last["val_accuracy"] == 0
    assert last["val_loss"] > first["val_loss"] + 0.01
    assert result.test.loss == pytest.approx(first["val_loss"])
    assert result.last is not None
    assert result.last.loss == pytest.approx(last["val_loss"])


def test_the_same_seed_gives_the_same_bilstm() -> None:
    parts = [table(n, seed) for seed, n in enumerate((200, 50, 50))]
    losses = [train_bilstm(*parts, epochs=1, seed=seed).test.loss for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_tfidf_learns_words_and_keeps_the_order_of_labels() -> None:
    rng = np.random.default_rng(0)
    labels = ["zebra", "apple", "mango"]
    answers = [labels[i] for i in rng.integers(0, 3, 400)]
    texts = [f"a {label}ish thing number {n}" for n, label in enumerate(answers)]
    places = (slice(300), slice(300, 350), slice(350, None))
    parts = [Table(texts[place], answers[place]) for place in places]
    result = train_tfidf(*parts, labels=labels)
    assert result.test.accuracy == 1.0
    assert result.test.labels == tuple(labels)
    assert result.to_row()["kind"] == "tfidf"
    assert result.to_row()["unread"] == 0
    assert result.name == "TF-IDF + logistic regression"


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.15, 0.3])
def test_validation_rows_choose_the_strength_that_sklearn_does(noise: float) -> None:
    rng = np.random.default_rng(1)

    def part(n: int) -> Table:
        answers = rng.integers(0, 2, n)
        told = np.where(rng.random(n) < noise, 1 - answers, answers)
        words = [["bad", "good"][one] for one in told]
        texts = [f"{word} {rng.integers(0, 40)} {rng.integers(0, 40)}" for word in words]
        return Table(texts, [["no", "yes"][one] for one in answers])

    train, validation, test = part(200), part(100), part(100)
    grams = TfidfVectorizer(
        ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=word_pattern()
    )
    search = GridSearchCV(
        LogisticRegression(solver="liblinear", random_state=0),
        {"C": [1.0, 3.0, 10.0, 30.0, 100.0]},
        cv=PredefinedSplit([-1] * 200 + [0] * 100),
        scoring="neg_log_loss",
        refit=False,
    )
    both = vstack([grams.fit_transform(train.texts), grams.transform(validation.texts)])
    search.fit(both, train.labels + validation.labels)
    result = train_tfidf(train, validation, test)
    assert result.settings == search.best_params_
    assert result.to_row()["settings"] == {"C": search.best_params_["C"]}


def test_without_validation_rows_nothing_is_chosen() -> None:
    with pytest.raises(InputError, match="no validation rows to choose C by"):
        train_tfidf(table(100, 0), Table([], []), table(20, 1))


def test_where_words_are_not_spaced_tfidf_is_level_with_one_line_of_sklearn() -> None:
    train, test, validation = (unspaced(n, seed) for seed, n in enumerate((300, 200, 100)))
    rival = make_pipeline(
        TfidfVectorizer(analyzer="char", ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(),
    ).fit(train.texts, train.labels)
    result = train_tfidf(train, validation, test)
    assert result.test.accuracy >= rival.score(test.texts, test.labels) > 0.95
    assert result.name == "TF-IDF of characters + logistic regression"


def test_where_words_are_not_spaced_the_bilstm_reads_characters() -> None:
    result = train_bilstm(*(unspaced(n, seed) for seed, n in enumerate((300, 100, 100))))
    assert result.test.accuracy > 0.9
    assert result.name == "bidirectional LSTM of characters"


def test_texts_of_which_nothing_is_known_are_counted() -> None:
    train = table(150, 0)
    test = Table([train.texts[0], "quite other words", "…", "YES!"], ["no", "yes", "no", "yes"])
    assert train_tfidf(train, train, test).unread == 2
    assert train_bilstm(train, test, test, epochs=1).to_row()["unread"] == 2


def test_decisions_are_fitted_for_baselines_too() -> None:
    rng = np.random.default_rng(0)

    def part(n: int) -> Table:
        answers = ["rare" if rng.random() < 0.1 else "usual" for _ in range(n)]
        told = [one if rng.random() < 0.6 else "usual" for one in answers]
        return Table([f"a {word} thing number {k}" for k, word in enumerate(told)], answers)

    train, validation, test = part(400), part(200), part(200)

    def decide(probabilities: Any, targets: Any) -> list[float]:
        assert len(probabilities) == len(targets) == 200
        return [20.0, 0.0]

    plain = train_tfidf(train, validation, test, labels=["rare", "usual"])
    assert plain.decided is None
    # Everything is answered with the first class.
    for result in (
        train_tfidf(train, validation, test, labels=["rare", "usual"], decide=decide),
        train_bilstm(train, validation, test, labels=["rare", "usual"], decide=decide, epochs=1),
    ):
        assert result.decided is not None
        assert not result.decided.any()
        assert result.test.accuracy == pytest.approx(test.labels.count("rare") / 200)
    # A seed that only wafergpt takes.
    seeded = train_tfidf(train, validation, test, labels=["rare", "usual"], seed=1 << 62)
    assert seeded.test.loss == pytest.approx(plain.test.loss, rel=0.01)


def test_texts_that_share_no_word_are_no_failure() -> None:
    words = ["".join(pair) for pair in itertools.product("abcdefghijklmnopqrst", repeat=2)]
    texts = [f"{a} {b}" for a, b in zip(words[::2], words[1::2], strict=True)]
    train = Table(texts, ["no", "yes"] * (len(texts) // 2))
    test = Table(["other words"], ["yes"])
    assert train_tfidf(train, train, test).unread == 1
