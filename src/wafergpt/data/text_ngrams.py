"""The n-grams of words and characters in a text, as row numbers of a hashed table.

An export to ONNX contains this file, so it needs nothing but NumPy and the two numbers of the hash.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wafergpt.shapes.hashing import FACTOR, PRIME

TextNgrams = Literal["none", "words", "characters"]

WORDS = 2
"""Longest n-gram of words."""

CHARACTERS = 5
"""Longest n-gram of the characters of a word, of which a space before and after it are two."""

_WORD = re.compile(r"\w+|[^\w\s]")


def text_ngrams(text: str, kind: TextNgrams, rows: int) -> NDArray[np.int32]:
    """Return the rows of a text's distinct n-grams, sorted; row 0 is none's.

    Words are runs of letters and digits, and single other characters, in lower case; scripts
    without spaces have long words, whose characters are what counts.

    Args:
        text: any.
        kind: n-grams of words alone, or those of characters too.
        rows: of the table.
    """
    words = _WORD.findall(text.lower())
    hashes = [*_hashed([hashed_text(word) for word in words], WORDS)]
    if kind == "characters" and words:
        # A space on both sides tells the ends of words; n-grams across it are not of one word.
        letters = np.frombuffer(f" {'  '.join(words)} ".encode("utf-32-le"), np.uint32)
        word = (np.cumsum(letters == ord(" ")) + 1) // 2
        hashes += [
            found[word[: len(found)] == word[len(letters) - len(found) :]]
            for found in _hashed(letters.astype(np.int64), CHARACTERS)
        ]
    if not hashes:
        return np.zeros(0, dtype=np.int32)
    return np.unique(np.concatenate(hashes) % (rows - 1) + 1).astype(np.int32)


@lru_cache(maxsize=1 << 16)
def hashed_text(word: str) -> int:
    """Return the hash of a word, below the prime."""
    value = 7
    for character in word:
        value = (value * FACTOR + ord(character)) % PRIME
    return value


def _hashed(items: list[int] | NDArray[np.int64], longest: int) -> Iterator[NDArray[np.int64]]:
    """Yield the hashes of the n-grams of each length from 1 to ``longest``."""
    values = np.asarray(items, dtype=np.int64)
    hashes = np.zeros(len(values), dtype=np.int64)
    for length in range(1, min(longest, len(values)) + 1):
        last = values[length - 1 :]
        hashes = (hashes[: len(last)] * FACTOR + last + 1) % PRIME
        # Those of another length are other n-grams.
        yield (hashes * FACTOR + length) % PRIME
