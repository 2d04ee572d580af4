"""What texts are made of: words where they are spaced, characters where they are not."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

SAMPLED_TEXTS = SAMPLED_CHARACTERS = 2000
"""So many training texts, evenly taken, and so much of each, tell how words are written."""

UNSPACED = (
    "CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO", "THAI", "LAO",
    "KHMER", "MYANMAR", "JAVANESE", "BALINESE",
)  # fmt: skip
"""How Unicode's names of letters begin in scripts that are written without spaces."""

MOST_UNSPACED = 0.2
"""Of the letters. An ideograph says about as much as four letters: a fifth is half of the words."""

MOST_FOREIGN = 0.001
"""Of the letters, beyond a-z. English has fewer, in names and ``café``; German has twenty times
as many."""

_MARKUP = re.compile(r"<[^>]*>")
_ENGLISH_WORD = re.compile(r"[a-z0-9']+")
_CHARACTER = re.compile(r"\S")


@dataclass(frozen=True)
class Units:
    """What the texts of a task are split into.

    Attributes:
        characters: split into characters, because words are not spaced; else into words.
        english: words are of a-z, digits and apostrophes; else of the letters of every alphabet.
    """

    characters: bool = False
    english: bool = True

    @classmethod
    def of(cls, texts: Sequence[str]) -> Units:
        """Decide by the training texts.

        Characters are taken where more than a fifth of the letters are of scripts without spaces
        (Chinese, Japanese, Thai …), and where most texts have fewer than two words (names, emoji).
        """
        step = -(-len(texts) // SAMPLED_TEXTS) or 1
        sample = [text[:SAMPLED_CHARACTERS] for text in texts[::step]]
        # Accents may be characters of their own.
        letters = {c: n for c, n in Counter("".join(sample)).items() if c.isalpha() or _is_mark(c)}
        total = sum(letters.values())
        unspaced = sum(
            n for c, n in letters.items() if unicodedata.name(c, "").startswith(UNSPACED)
        )
        foreign = sum(n for c, n in letters.items() if not c.isascii())
        words = re.compile(word_pattern())
        short = sum(len(words.findall(text)) < 2 for text in sample)
        return cls(
            characters=unspaced > MOST_UNSPACED * total or 2 * short > len(sample),
            english=foreign <= MOST_FOREIGN * total,
        )

    @property
    def suffix(self) -> str:
        """What the name of a baseline adds where it reads characters."""
        return " of characters" if self.characters else ""

    def split(self, text: str) -> list[str]:
        """Return the lower-case words, or characters, of a text; words without punctuation.

        Markup is left out.
        """
        text = _MARKUP.sub(" ", text).lower()
        if self.characters:
            return _CHARACTER.findall(text)
        return (_ENGLISH_WORD if self.english else _any_word()).findall(text)


@functools.cache
def word_pattern() -> str:
    r"""Return a pattern of words of two characters and more.

    That is scikit-learn's ``\b\w\w+\b``, which breaks Hindi, Tamil and others at vowel signs, with
    such signs.
    """
    return rf"\w[\w{_marks()}]+"


@functools.cache
def _any_word() -> re.Pattern[str]:
    return re.compile(rf"(?:[^\W_]|')(?:[^\W_]|[{_marks()}'])*")


@functools.cache
def _marks() -> str:
    """Return the combining marks, which stand within words, for the class of a pattern.

    Those beyond the 65,536 first characters are of rare scripts, and make a search 7 times slower.
    """
    return "".join(filter(_is_mark, map(chr, range(0x10000))))


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")
