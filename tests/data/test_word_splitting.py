"""Raw texts as words, with their places."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.data.word_splitting import (
    joined,
    pieces,
    sentences,
    split_sentences,
    units_of,
    words_of,
)


@given(st.text(), st.sampled_from(["words", "parts", "characters"]))
def test_nothing_is_lost(text: str, units: str) -> None:
    words = words_of(text, units)  # type: ignore[arg-type]
    assert all(text[word.start : word.end] == word.text for word in words)
    ends = [0, *(word.end for word in words)]
    starts = [*(word.start for word in words), len(text)]
    assert all(not text[a:b].strip() for a, b in zip(ends, starts, strict=True))
    assert sum(sentences(text, words)) == len(words)


@given(st.lists(st.text(min_size=1), max_size=8))
def test_joined_words_stand_where_they_say(words: list[str]) -> None:
    text, placed = joined(words)
    assert [text[word.start : word.end] for word in placed] == words
    assert len(list(pieces(words))) == len(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Mr. O'Brien didn't see the U.S. team's 10-year plan.",
         ["Mr.", "O'Brien", "did", "n't", "see", "the", "U.S.", "team", "'s", "10-year", "plan",
          "."]),
        ("$1,000.50 (5%) on 1996-08-22", ["$", "1,000.50", "(", "5", "%", ")", "on", "1996-08-22"]),
        ("我在New York住", ["我", "在", "New", "York", "住"]),
        ("hi👩‍🔬👍🏽!", ["hi", "👩‍🔬", "👍🏽", "!"]),
        ("a_b - c", ["a", "_", "b", "-", "c"]),
    ],
)  # fmt: skip
def test_words_as_conll_has_them(text: str, words: list[str]) -> None:
    assert [word.text for word in words_of(text, "words")] == words


def test_parts_and_characters() -> None:
    assert [w.text for w in words_of("GSK-3beta x", "parts")] == ["GSK", "-", "3beta", "x"]
    assert [w.text for w in words_of("在 NBA", "characters")] == ["在", "N", "B", "A"]


@pytest.mark.parametrize(
    ("text", "lengths"),
    [("He left. She stayed.", [3, 3]), ("3.5 vs. Smith it", [4]), ("你好。我在。", [3, 3]),
     ('"Go." He went.', [4, 3]), ("one\ntwo", [1, 1]), ("e.g. this ... and that", [5])],
)  # fmt: skip
def test_sentences(text: str, lengths: list[int]) -> None:
    assert list(sentences(text, words_of(text, "words"))) == lengths


@pytest.mark.parametrize(
    "parts",
    [["He left.", "She stayed."], ["3.5 vs. Smith, e.g. this ... and that"], ["你好。", "我在。"],
     ["He said “Go.”", "Then he went!?"], ["one", "two"], ["Mr. G. K. Brown of the U.S. left."],
     ["It is Anna's.", "Fine."], ["So do I.", "You too."], []],
)  # fmt: skip
@pytest.mark.parametrize("between", [" ", "\n", " \r\n\n "])
def test_sentences_without_their_words(parts: list[str], between: str) -> None:
    if between == " " and parts[:1] == ["one"]:
        parts = ["one two"]
    assert split_sentences(between.join(["", *parts, ""])) == parts


@given(st.text())
def test_split_sentences_lose_nothing(text: str) -> None:
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


def test_what_files_have_as_words() -> None:
    assert units_of(["a", "中"]) == "characters"
    assert units_of(["a-b", "c"]) == "words"
    assert units_of(["ab", "-"]) == "parts"


def test_a_long_text_is_split_in_linear_time() -> None:
    parts = ("a" * 200_000, "a." * 100_000, "n'" * 100_000, "a-" * 100_000, "!?" * 100_000)
    for text in (*parts, f"{parts[-1]}a"):
        words_of(text, "words")
        split_sentences(text)
