"""Words that training texts lack, read as ones that they have.

What is mistyped is put right before a network reads it, as in Pruthi et al. (arXiv:1905.11268),
whose network of its own is a list of words here. An export to ONNX contains this file, so it needs
nothing but Python.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache

SHORTEST, LONGEST = 4, 32
"""Characters of a word that may be mistyped: of a shorter one, too many others are near."""

SHORTEST_OF_FEW, MANY = 6, 12_000
"""Characters where fewer words than MANY are known: many others are then spelled right."""

KNOWN, SURE = 2, 5
"""Training texts that have a word, for it to be left as it is, and for others to be read as it."""

MOST = 1 << 17
"""Known words, the most frequent ones."""

LOOK_ALIKES = {
    other: letter
    for others, letters in (
        ("асеіјорѕхуһԁԛԝАВСЕНІЈКМОРЅТХ", "aceijopsxyhdqwABCEHIJKMOPSTX"),  # Cyrillic
        ("ονΑΒΕΗΙΚΜΝΟΡΤΧΥΖ", "ovABEHIKMNOPTXYZ"),  # Greek
    )
    for other, letter in zip(others, letters, strict=True)
}
"""Letters of other scripts that look like a Latin one, and that one."""

_LOOKING_LATIN = str.maketrans(LOOK_ALIKES)
_LATIN_LETTER = re.compile(r"[A-Za-zÀ-ʯḀ-ỿ]")
_OTHER_LETTER = re.compile(r"(?![A-Za-zÀ-ʯḀ-ỿ])[^\W\d_]")

# What is taken for a letter where a scanned page is read; many words begin with cl.
_SCANNED = re.compile("rn|vv|(?<!^)cl|ii|li|ri")
_AS_SCANNED = {"rn": "m", "vv": "w", "cl": "d", "ii": "u", "li": "h", "ri": "n"}
_SCANNED_LETTERS = str.maketrans("1058", "losb")

# Several spaces between words say no more than one.
_SPACES = re.compile(r"(?<=\S)[ \t\u00a0\u3000]{2,}(?=\S)")

# Addresses are no words; marks belong to the letters before them.
_WORD = re.compile(
    r"(?:https?://|www\.)\S+|([\w\u0300-\u036f]+(?:['’][\w\u0300-\u036f]+)*)", re.IGNORECASE
)

# Of scripts with letters: Latin, Greek, Cyrillic, Armenian, Hebrew and Arabic. A letter of others
# stands for a syllable or a word.
_LETTERS = re.compile(r"[0-9A-Za-zÀ-ʯͰ-֏א-ۿḀ-ỿ'’]+")
_DIGITS = re.compile(r"[0-9]+")
_NUMBERED = re.compile(r"^[0-9]|[0-9]$")
_COUNTED = re.compile(r"^[0-9]|[0-9]{2}$")


class Spelling:
    """The words that texts are read with.

    Args:
        words: in lower case, with the number of training texts that have each.
    """

    def __init__(self, words: Mapping[str, int]) -> None:
        self.words = dict(words)
        self._shortest = SHORTEST if len(words) >= MANY else SHORTEST_OF_FEW
        self._nearest = lru_cache(maxsize=1 << 16)(self._find_nearest)
        # What is between spaces has all that a word's reading depends on.
        self._read_again = lru_cache(maxsize=1 << 17)(self._read)

    @classmethod
    def of(cls, texts: Iterable[str], also: Iterable[str] = ()) -> Spelling:
        """Learn the words of training texts.

        Args:
            texts: of the training.
            also: words that are known too where the texts have few, though no other word is read as
                one of them.

        Returns:
            The spelling.
        """
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update({_plain(_in_latin(word)) for word in _WORD.findall(text)})
        frequent = sorted(
            (-count, word)
            for word, count in counts.items()
            if count >= KNOWN and SHORTEST <= len(word) <= LONGEST and _LETTERS.fullmatch(word)
        )
        known = {word: -count for count, word in frequent[:MOST]}
        more = {} if len(known) >= MANY else dict.fromkeys(map(_plain, also), 0)
        return cls({**more, **known})

    def merged(self, other: Spelling) -> Spelling:
        """Return the words of both, the larger count of each."""
        larger = {word: max(n, self.words.get(word, 0)) for word, n in other.words.items()}
        return Spelling({**self.words, **larger})

    @property
    def can_correct(self) -> bool:
        """Whether there is a word that others may be read as."""
        return bool(self._by_deletion)

    def __call__(self, text: str) -> str:
        """Return a text with unknown words replaced by near ones that are known.

        Near is a letter more, less or another one, or two neighbours that have changed places
        (Damerau, 1964), and never another digit; first comes a word that differs by an apostrophe,
        then one that looks alike, then the most frequent one. A word that has none is read as one
        that looks alike all over, as rn and m do, or I and l. Others stay, and so do addresses,
        names with other capitals inside, and whatever is no word. Letters of other scripts in a
        Latin word are read as those that they look like, and several spaces as one.
        """
        between_spaces = _SPACES.sub(" ", text).split(" ")
        return " ".join(
            (self._read_again if len(part) <= LONGEST else self._read)(part)
            for part in between_spaces
        )

    def changes(self, text: str) -> list[tuple[str, str]]:
        """Return the words of a text that are read as others, and as which."""
        read = ((match.group(), self._read_word(match)) for match in _WORD.finditer(text))
        return [(word, other) for word, other in read if word != other]

    def _read(self, text: str) -> str:
        return _WORD.sub(self._read_word, text)

    def _read_word(self, match: re.Match[str]) -> str:
        word = match.group()
        if _plain(word) in self.words or _in_address(match):
            return word
        latin = _in_latin(word)
        if _plain(latin) in self.words:
            return latin
        corrected = self._corrected(word) or self._corrected(latin)
        return corrected or (latin if _is_mostly_latin(word) else word)

    def _corrected(self, word: str) -> str:
        """Return the known word that an unknown one is read as, or nothing."""
        if not (word[1:] == word[1:].lower() or word.isupper()):
            # A capital I may be a small L, and at the end also a word of its own.
            word, glued = word[:1] + word[1:].replace("I", "l"), word.endswith("I")
            if word[1:] == word[1:].lower() and _plain(word) in self.words:
                return word
            if glued or word[1:] != word[1:].lower():
                return ""
        if not self._shortest <= len(plain := _plain(word)) <= LONGEST:
            return ""
        found = self._nearest(plain, word.isupper())
        return found and cased_as(word, found)

    def _find_nearest(self, word: str, upper: bool) -> str:
        if not _LETTERS.fullmatch(word) or 2 * sum(map(str.isalpha, word)) <= len(word):
            return ""
        # Capitals do not look alike, and some numbers are no letters.
        looks = "" if upper or _COUNTED.search(word) else _scanned(word)
        near = {other for part in _shortened(word) for other in self._by_deletion.get(part, ())}
        near = {other for other in near if _are_near(word, other)}
        if not near:
            return self._by_looks.get(looks, "")

        def rank(other: str) -> tuple[bool, bool, int, str]:
            same_letters = _letters(word) == _letters(other)
            return same_letters, looks == _scanned(other), self.words[other], other

        return max(near, key=rank)

    @cached_property
    def _by_looks(self) -> Mapping[str, str]:
        """The most frequent of the sure words that look alike, by what they look like."""
        sure = sorted((n, word) for word, n in self.words.items() if n >= SURE)
        return {_scanned(word): word for _, word in sure if not _DIGITS.search(word)}

    @cached_property
    def _by_deletion(self) -> Mapping[str, list[str]]:
        """The sure words by what is left of them, or of a word near them, without a letter."""
        found = defaultdict(list)
        for word, count in self.words.items():
            if count >= SURE and len(word) >= self._shortest - 1:
                for part in _shortened(word):
                    found[part].append(word)
        return found


def cased_as(model: str, word: str) -> str:
    """Return a word in upper case, or with a capital, if the model is."""
    letters = [letter for letter in model if letter.isalpha()]
    if len(letters) > 1 and all(letter.isupper() for letter in letters):
        return word.upper()
    return word[:1].upper() + word[1:] if model[:1].isupper() else word


def _in_latin(word: str) -> str:
    """Return a word of Latin letters and others that look like them in Latin ones alone."""
    if word.isascii() or not _LATIN_LETTER.search(word):
        return word
    latin = word.translate(_LOOKING_LATIN)
    return word if _OTHER_LETTER.search(latin) else latin


def _scanned(word: str) -> str:
    """Return a word in small letters as all have it that look like it on a scanned page."""
    letters = word.translate(_SCANNED_LETTERS)
    return _SCANNED.sub(lambda pair: _AS_SCANNED[pair.group()], letters).replace("i", "l")


def _is_mostly_latin(word: str) -> bool:
    return 2 * len(_LATIN_LETTER.findall(word)) > sum(map(str.isalpha, word))


def _plain(word: str) -> str:
    return unicodedata.normalize("NFC", word.lower().replace("’", "'"))


def _in_address(match: re.Match[str]) -> bool:
    """Return whether a word is a name on a network, or a part of one."""
    text, start, end = match.string, match.start(), match.end()
    before, after, then = text[start - 1 : start], text[end : end + 1], text[end + 1 : end + 2]
    return (
        match[1] is None
        or before in {"@", "#"}
        or after == "@"
        or (after == "." and then.islower())
    )


def _letters(word: str) -> str:
    return word.replace("'", "")


def _shortened(word: str) -> set[str]:
    return {word, *(word[:place] + word[place + 1 :] for place in range(len(word)))}


def _are_near(word: str, other: str) -> bool:
    """Return whether words that share what is left of them are one change apart."""
    digits = _DIGITS.findall(other)
    # A digit inside a word is a mistake, one after it the number of something.
    numbered = len(word) > len(other) and _NUMBERED.search(word)
    if (digits or numbered) and digits != _DIGITS.findall(word):
        return False
    before, apostrophe, _ = word.partition("'")
    if apostrophe and len(before) <= SHORTEST and _letters(word) != _letters(other):
        # Too many are near where what is before an apostrophe is short, as in hasn't and hadn't.
        return False
    if len(word) != len(other):
        return True
    places = [place for place, both in enumerate(zip(word, other, strict=True)) if len({*both}) > 1]
    if len(places) == 1:
        return True
    if len(places) != 2 or places[1] != places[0] + 1:
        return False
    first, second = places
    return word[first] == other[second] and word[second] == other[first]
