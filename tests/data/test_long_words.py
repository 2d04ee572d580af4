from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.data import long_words
from wafergpt.data.long_words import LONGEST, PIECE, cut, is_unsplit

ALIKE = ["a", "é", "的", "7", " ", "\n", "=", "_", "\u0301"]


@pytest.mark.parametrize("letter", ALIKE)
def test_only_what_is_longer_than_any_word_is_cut(
    letter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edge = "7" if letter.isalpha() else "b"
    longest = f"{edge}{letter * LONGEST}{edge}"
    assert list(cut(["one", longest, "two"])) == ["one", longest, "two"]
    assert capsys.readouterr().err == ""
    longer = f"{edge}{letter * (LONGEST + 1)}{edge}"
    pieces = list(cut(["one", longer]))
    assert "".join(pieces[1:]) == longer
    assert max(map(len, pieces)) <= PIECE + 5
    (line,) = capsys.readouterr().err.splitlines()
    assert "a stretch of text without a space or another place to split (4,097 characters)" in line


def test_ordinary_texts_without_spaces_stay_whole() -> None:
    chinese = "的一是不了人我在有他这为之大来以个中上们。" * 5000
    encoded = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ+/" * 5000
    assert list(cut([chinese, encoded])) == [chinese, encoded]


@given(
    st.lists(st.tuples(st.sampled_from(ALIKE), st.integers(0, 40)), max_size=8),
    st.integers(0, 30),
)
def test_what_is_cut_is_the_same_text(parts: list[tuple[str, int]], before: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_words, "LONGEST", 12)
        patch.setattr(long_words, "PIECE", 4)
        text = "x y" * before + "".join(letter * number for letter, number in parts)
        pieces = list(cut([text]))
        assert "".join(pieces) == text
        # The quick look misses none.
        runs = [m.end() - m.start() for m in long_words._ALIKE.finditer(text)]
        assert (max(runs, default=0) > 12) <= is_unsplit(text)
        assert (len(pieces) > 1) == (max(runs, default=0) > 12)
