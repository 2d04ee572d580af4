"""The n-grams of texts, against a plain enumeration."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wafergpt.data.ngram_ratios import log_count_ratios, shared_ngrams
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


@given(
    st.lists(
        st.tuples(st.sets(st.integers(1, 6), min_size=1), st.sets(st.integers(0, 2))), min_size=1
    )
)
@example([({1, 2}, {0}), ({1}, {0}), ({1, 3}, {1})])
def test_ratios_are_those_that_a_text_finds_in_the_others(
    texts: list[tuple[set[int], set[int]]],
) -> None:
    """As NB-SVM's, by hand: log of shares with counts plus one half, this text left out."""
    rows = [np.array(sorted(read), dtype=np.int32) for read, _ in texts]
    targets = np.array([[label in labels for label in range(3)] for _, labels in texts], dtype=int)
    readers = {row: [labels for read, labels in texts if row in read] for row in range(1, 7)}
    shared = [row for row in readers if len(readers[row]) > 1]
    numbers, counts = shared_ngrams(rows)
    assert numbers.tolist() == shared
    assert counts.tolist() == [len(readers[row]) for row in shared]
    found = log_count_ratios(rows, targets, 3, np.array(shared, dtype=np.int32))
    assert found.shape == (len(shared), 3)
    for place, label in np.ndindex(*found.shape):
        has = [label in labels for labels in readers[shared[place]]]
        ratios = []
        for left_out in has:
            own = sum(has) - left_out
            ratios.append(np.log((own + 0.5) / (len(has) - 1 - own + 0.5)))
        every = sum(len(readers[row]) for row in shared)
        of_label = sum(label in labels for row in shared for labels in readers[row])
        unseen = len(shared) / 2
        shares = np.log((of_label + unseen) / (every - of_label + unseen))
        assert found[place, label] == pytest.approx(np.mean(ratios) - shares, abs=1e-5)


def test_ratios_of_one_class_each_are_those_of_labels() -> None:
    rows = [text_ngrams(text, "words", 1000) for text in ("good film", "good plot", "bad film")]
    targets, of = np.array([2, 2, 0]), shared_ngrams(rows)[0]
    found = log_count_ratios(rows, targets, 3, of)
    assert (found == log_count_ratios(rows, np.eye(3, dtype=int)[targets], 3, of)).all()
    good, film = (
        np.searchsorted(of, text_ngrams(word, "words", 1000)[0]) for word in ("good", "film")
    )
    assert found[good, 2] > 0 > found[good, 0]
    assert found[film, 2] < found[good, 2]


def test_an_n_gram_of_one_text_has_no_ratio() -> None:
    rows = [np.array(text, dtype=np.int32) for text in ([1, 2], [2, 3], [2])]
    found = log_count_ratios(rows, np.array([0, 0, 1]), 2, np.arange(1, 5, dtype=np.int32))
    assert found[:, 0].nonzero()[0].tolist() == [1]
    assert not log_count_ratios([], np.zeros(0, dtype=np.int64), 2, shared_ngrams([])[0]).size
