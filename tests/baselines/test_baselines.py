from __future__ import annotations

import random

import numpy as np
import pytest

from wafergpt.baselines.bilstm import LENGTH, UNKNOWN, Words, split_words, train_bilstm
from wafergpt.baselines.tfidf import train_tfidf
from wafergpt.data.tables import Table


def table(n: int, seed: int, labels: tuple[str, ...] = ("no", "yes")) -> Table:
    """Return texts whose label is which of two words comes last: order matters."""
    rng = random.Random(seed)
    texts, answers = [], []
    for _ in range(n):
        label = rng.choice(labels)
        texts.append(" ".join([*rng.choices(labels, k=4), *["then"] * rng.randint(0, 3), label]))
        answers.append(label)
    return Table(texts, answers)


def test_words_are_lower_case_without_markup_and_the_last_ones() -> None:
    assert split_words("It's <br /><b>GREAT</b>, really!") == ["it's", "great", "really"]
    words = Words(["a a a b b c"])
    assert words.encode("a b c d A").tolist() == [2, 3, 4, UNKNOWN, 2]
    assert words.encode("…").tolist() == [UNKNOWN]
    assert words.encode("c " * 10 + "a " * LENGTH).tolist() == [2] * LENGTH


@pytest.mark.parametrize("labels", [("no", "yes"), ("one", "two", "three")])
def test_the_bilstm_learns_order_where_words_alone_do_not(labels: tuple[str, ...]) -> None:
    parts = [table(n, seed, labels) for seed, n in enumerate((800, 100, 200))]
    result = train_bilstm(*parts, epochs=10)
    assert result.test.accuracy > 0.97
    assert [row["epoch"] for row in result.history] == [float(e) for e in range(1, 11)]
    best = max(row["val_accuracy"] for row in result.history)
    assert best > 0.95
    assert result.last is not None
    assert result.to_row()["last"]["accuracy"] == result.last.accuracy


def test_a_time_limit_ends_the_bilstm_with_its_best_weights() -> None:
    parts = [table(n, seed) for seed, n in enumerate((3000, 100, 100))]
    result = train_bilstm(*parts, epochs=1000, seconds=3.0)
    assert result.seconds < 6
    assert result.history
    assert result.to_row()["accuracy"] == result.test.accuracy


def test_the_same_seed_gives_the_same_bilstm() -> None:
    parts = [table(n, seed) for seed, n in enumerate((200, 50, 50))]
    losses = [train_bilstm(*parts, epochs=1, seed=seed).test.loss for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_tfidf_learns_words_and_keeps_the_order_of_labels() -> None:
    rng = np.random.default_rng(0)
    labels = ["zebra", "apple", "mango"]
    answers = [labels[i] for i in rng.integers(0, 3, 400)]
    texts = [f"a {label}ish thing number {n}" for n, label in enumerate(answers)]
    parts = Table(texts[:300], answers[:300]), Table(texts[300:], answers[300:])
    result = train_tfidf(*parts, labels=labels)
    assert result.test.accuracy == 1.0
    assert result.test.labels == tuple(labels)
    assert result.to_row()["kind"] == "tfidf"
