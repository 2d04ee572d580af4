"""The n-grams of texts, against a plain enumeration."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wafergpt.data.ngram_ratios import log_count_ratios
from wafergpt.data.text_ngrams import text_ngrams

ROWS = 2**31 - 1
"""So many that two n-grams of a short text hardly ever share one."""


def enumerated(text: str) -> tuple[set[tuple[str, ...]], set[str]]:
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    pairs = {tuple(words[i : i + n]) for n in (1, 2) for i in range(len(words) - n + 1)}
    padded = [f" {word} " for word in words]
    letters = {w[i : i + n] for w in padded for n in range(1, 6) for i in range(len(w) - n + 1)}
    return pairs, letters


@given(st.text(max_size=60))
@example("")
@example("I don't know, don't you?")
@example("这家酒店很好 very good")
@example("two\u00a0spaces   and\ttabs")
def test_they_are_the_distinct_n_grams(text: str) -> None:
    words, letters = enumerated(text)
    assert len(text_ngrams(text, "words", ROWS)) == len(words)
    found = text_ngrams(text, "characters", ROWS)
    assert len(found) == len(words) + len(letters)
    assert (found[1:] > found[:-1]).all()
    assert set(text_ngrams(text, "words", ROWS)) <= set(found)


@given(st.text(max_size=60), st.integers(2, 50))
def test_row_0_is_for_padding(text: str, rows: int) -> None:
    found = text_ngrams(text, "characters", rows)
    assert ((found > 0) & (found < rows)).all()


def test_case_and_spaces_change_nothing() -> None:
    one, other = "A  good film", "a good\nFILM"
    assert (text_ngrams(one, "characters", 999) == text_ngrams(other, "characters", 999)).all()


def test_a_runs_table_is_read_by_later_versions() -> None:
    """The rows are part of a trained run, and may never change."""
    assert text_ngrams("Good film", "words", 1 << 16).tolist() == [10117, 22154, 39321]


def test_ratios_are_those_of_naive_bayes() -> None:
    """As NB-SVM's: log of shares with counts plus one, by hand."""
    texts = ["good good film", "good plot", "bad film"]
    rows = [text_ngrams(text, "words", 1000) for text in texts]
    targets = np.array([1, 1, 0])
    found = log_count_ratios(rows, targets, 2, 1000)
    counts = np.ones((2, 1000))
    for own, label in zip(rows, targets, strict=True):
        for row in own:
            counts[label, row] += 1
    shares = counts / counts.sum(1, keepdims=True)
    good = text_ngrams("good", "words", 1000)[0]
    assert found[good, 1] == pytest.approx(np.log(shares[1, good] / shares[0, good]), rel=1e-6)
    assert found[good, 0] == pytest.approx(-found[good, 1])
    unseen = np.setdiff1d(np.arange(1000), np.concatenate(rows))
    assert not found[unseen].any()
