"""Words that a text has and the training texts lack, read as words of theirs.

What is mistyped is put right before a network reads it, as in Pruthi et al. (arXiv:1905.11268),
whose network of its own is a list of words here. An export to ONNX contains this file, so it needs
nothing but Python.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache

SHORTEST, LONGEST = 4, 32
"""Characters of a word that may be mistyped: of a shorter one, too many others are near."""

KNOWN, SURE = 2, 5
"""Training texts that have a word, for it to be left as it is, and for others to be read as it."""

MOST = 1 << 17
"""Known words, the most frequent ones."""

_WORD = re.compile(r"\w+(?:['’]\w+)*")

# Of scripts with letters: Latin, Greek, Cyrillic, Armenian, Hebrew and Arabic. A letter of others
# stands for a syllable or a word.
_LETTERS = re.compile(r"[0-9A-Za-zÀ-ʯͰ-֏א-ۿḀ-ỿ'’]+")


class Spelling:
    """The words that texts are read with.

    Args:
        words: in lower case, with the number of training texts that have each.
    """

    def __init__(self, words: Mapping[str, int]) -> None:
        self.words = dict(words)
        self._nearest = lru_cache(maxsize=1 << 16)(self._find_nearest)

    @classmethod
    def of(cls, texts: Iterable[str], also: Iterable[str] = ()) -> Spelling:
        """Learn the words of training texts.

        Args:
            texts: of the training.
            also: words that are known too, though no other word is read as one of them.

        Returns:
            The spelling.
        """
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update({_plain(word) for word in _WORD.findall(text)})
        known = {word: count for word, count in counts.most_common(MOST) if count >= KNOWN}
        return cls({**dict.fromkeys(map(_plain, also), 0), **known})

    @property
    def can_correct(self) -> bool:
        """Whether there is a word that others may be read as."""
        return bool(self._by_deletion)

    def __call__(self, text: str) -> str:
        """Return a text with each unknown word replaced by the most frequent one near it.

        Near is a letter more, less or another one, or two neighbours that have changed places
        (Damerau, 1964). Words that have none stay, and so does whatever is no word.
        """
        return _WORD.sub(lambda match: self._read(match.group()), text)

    def _read(self, word: str) -> str:
        plain = _plain(word)
        if plain in self.words or not SHORTEST <= len(plain) <= LONGEST:
            return word
        found = self._nearest(plain)
        return cased_as(word, found) if found else word

    def _find_nearest(self, word: str) -> str:
        if not _LETTERS.fullmatch(word) or 2 * sum(map(str.isalpha, word)) <= len(word):
            return ""
        near = {other for part in _shortened(word) for other in self._by_deletion.get(part, ())}
        near = {other for other in near if _are_near(word, other)}
        return max(near, key=lambda other: (self.words[other], other), default="")

    @cached_property
    def _by_deletion(self) -> Mapping[str, list[str]]:
        """The sure words by what is left of them, or of a word near them, without a letter."""
        found = defaultdict(list)
        for word, count in self.words.items():
            if count >= SURE and SHORTEST <= len(word) <= LONGEST and _LETTERS.fullmatch(word):
                for part in _shortened(word):
                    found[part].append(word)
        return found


def cased_as(model: str, word: str) -> str:
    """Return a word in upper case, or with a capital, if the model is."""
    letters = [letter for letter in model if letter.isalpha()]
    if len(letters) > 1 and all(letter.isupper() for letter in letters):
        return word.upper()
    return word[:1].upper() + word[1:] if model[:1].isupper() else word


def _plain(word: str) -> str:
    return word.lower().replace("’", "'")


def _shortened(word: str) -> set[str]:
    return {word, *(word[:place] + word[place + 1 :] for place in range(len(word)))}


def _are_near(word: str, other: str) -> bool:
    """Return whether words that share what is left of them are one change apart."""
    if len(word) != len(other):
        return True
    places = [place for place, both in enumerate(zip(word, other, strict=True)) if len({*both}) > 1]
    if len(places) == 1:
        return True
    if len(places) != 2 or places[1] != places[0] + 1:
        return False
    first, second = places
    return word[first] == other[second] and word[second] == other[first]
