"""Unknown words are read as near ones that the training texts have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.data.spelling import KNOWN, SURE, Spelling, cased_as

nltk = pytest.importorskip("nltk", reason="the distances are NLTK's")

TEXTS = ["A wonderful film, don’t miss it.", "The naïve and Wonderful hero; он хороший"] * SURE


@pytest.mark.parametrize(
    ("text", "read"),
    [("A wondrful fi1m!", "A wonderful film!"), ("WNODERFUL", "WONDERFUL"), ("Filn", "Film"),
     ("The naive heroo", "The naïve hero"), ("хороший хорощий", "хороший хороший"),
     ("do'nt", "don't"), ("dont", "don't"), ("wonderfulness", "wonderfulness"),
     # Too short, no letters, two changes, known.
     ("a fil th 2047 wodnreful", "a fil th 2047 wodnreful"), ("fil_m x2x2", "fil_m x2x2"),
     ("电影很好看", "电影很好看"), ("", ""), ("\r\n wonderfu1\t", "\r\n wonderful\t")],
)  # fmt: skip
def test_what_words_are_read_as(text: str, read: str) -> None:
    assert Spelling.of(TEXTS)(text) == read


def test_the_most_frequent_near_word_is_taken_and_rare_ones_are_left() -> None:
    spelling = Spelling.of(["cast"] * SURE + ["last"] * (SURE + 1) + ["fast mast"] * (SURE - 1))
    assert spelling("aast") == "last"
    assert spelling("fast mast") == "fast mast"
    assert Spelling.of(["seldom"] * (KNOWN - 1) + ["seldon"] * SURE)("seldom") == "seldon"
    # Known from elsewhere, but not from these texts.
    assert Spelling.of(["seldon"] * SURE, ["Seldom", "seldon"])("seldom sldom seldn") == (
        "seldom sldom seldon"
    )
    assert not Spelling.of(["一二三四"] * SURE, ["word"]).can_correct


words = st.text("abc", min_size=4, max_size=7)


@given(st.dictionaries(words, st.integers(SURE, 99), min_size=1), words)
def test_near_is_a_distance_of_one(known: dict[str, int], word: str) -> None:
    near = {o for o in known if nltk.edit_distance(word, o, transpositions=True) == 1}
    read = Spelling(known)(word)
    if word in known or not near:
        assert read == word
    else:
        assert read in near
        assert known[read] == max(known[other] for other in near)


@given(st.lists(st.text(), max_size=20))
def test_training_texts_that_are_read_twice_stay(texts: list[str]) -> None:
    spelling = Spelling.of(texts * KNOWN)
    assert [spelling(text) for text in texts] == texts


@given(st.text("aBé1 "), st.text("cÄ2", min_size=1))
def test_case(model: str, word: str) -> None:
    assert cased_as(model, word).lower() == cased_as(model.swapcase(), word).lower()
    assert cased_as("model", word) == word
