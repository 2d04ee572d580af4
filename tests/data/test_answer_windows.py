"""Windows of long contexts, features beside the question's words, and the likeliest span."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.data.answer_batches import encoded
from wafergpt.data.answer_rows import Span
from wafergpt.data.answer_windows import (
    N_FEATURES,
    answer_features,
    best_span,
    is_content,
    split,
    windows,
)
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.data.word_features import own_hashes

END = 0
lengths = st.lists(st.integers(0, 6), min_size=1, max_size=30)


@given(st.lists(st.integers(0, 6), max_size=8), lengths, st.integers(8, 20), st.integers(0, 12))
def test_windows_hold_every_word_once_or_more(
    asked: list[int], words: list[int], limit: int, stride: int
) -> None:
    question, context = ([[1] * n for n in of] for of in (asked, words))
    found = list(windows(question, context, limit, stride, END))
    assert [window.last for window in found] == [False] * (len(found) - 1) + [True]
    reached = 0
    for window in found:
        assert len(window.tokens) <= limit
        assert window.first <= reached < window.first + len(window.ends)
        reached = window.first + len(window.ends)
        assert window.tokens[window.begin - 1] == window.tokens[-1] == END
        places = window.places
        assert places[0].tolist() == [len(window.tokens) - 1, len(window.tokens)]
        assert (places[1:, 0] < places[1:, 1]).all()
        assert (places[2:, 0] == places[1:-1, 1]).all()
    assert reached == len(words)


def test_places_of_words_are_those_of_the_text() -> None:
    tokenizer = Tokenizer.train(
        ["Zoë lives in 東京 with 👩‍👩‍👧 since 1998."] * 9, 300, exactly=False
    )
    context = "Zoë lives in 東京 with 👩‍👩‍👧 since 1998. " * 9
    found = encoded([("Who lives?", context)], tokenizer, 40, 0)
    assert len(found.windows) > 2
    (places,) = found.places
    for text in ("Zoë", "東京", "👩‍👩‍👧", "1998"):
        start = context.rindex(text)
        targets = found.targets([[Span(text, start, start + len(text))]])
        inside = targets[:, 0] > 0
        assert inside[-1]
        assert not inside[0]
        for window, (first, last) in zip(found.windows, targets, strict=True):
            if first:
                own = places[window.first :]
                assert context[own[first - 1, 0] : own[last - 1, 1]] == text


@given(st.integers(1, 12), st.integers(1, 14), st.integers(0, 999))
def test_the_best_span_is_that_of_all(n: int, most: int, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=(1 + n, 2))
    start, end, score, none = best_span(scores, most)
    logs = scores - np.log(np.exp(scores).sum(0))
    every = {
        (i, j): logs[1 + i, 0] + logs[1 + j, 1]
        for i, j in itertools.product(range(n), repeat=2) if 0 <= j - i < most
    }  # fmt: skip
    assert (start, end) == max(every, key=lambda pair: every[pair])
    assert np.isclose(score, max(every.values()))
    assert np.isclose(none, logs[0].sum())


def features(question: str, context: str) -> np.ndarray:
    asked, words = ([word.text for word in split(text)[0]] for text in (question, context))
    contents = np.array([is_content(word) for word in asked])
    return answer_features(own_hashes(asked)[1:], own_hashes(words)[1:], contents, 1 << 20)


def test_features_say_what_stands_beside_the_words_of_the_question() -> None:
    one = features("What is the code of Oslo?", "The code of Oslo is 123 today.")
    other = features("What is the code of Rome?", "The code of Rome is 123 today.")
    missed = features("What is the code of Rome?", "The code of Oslo is 123 today.")
    assert one.shape == (9, N_FEATURES)
    assert (one > 0).all()
    # The number is the same beside either name that is asked for, and another beside others.
    same = one[6] == other[6]
    assert same[N_FEATURES - 14 :].sum() == 13
    assert (one[6] != missed[6]).sum() >= 3
    assert (one[0] != missed[0]).any()
    assert len(set(one[6].tolist())) == N_FEATURES
