"""What a word looks like and stands beside, as row numbers of a hashed table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from wafergpt.data.text_ngrams import hashed_text
from wafergpt.shapes.hashing import FACTOR, PRIME

# A trained table depends on these lists and their order: they may never change.
_WORD, _LOWER, _SHAPE, _SHORT, _ENDING = range(5)
LOWER, SHORT = _LOWER, _SHORT
_OWN = 14
"""Columns of a word's own hashes: the five above, other beginnings and endings."""

_WINDOWS: tuple[tuple[tuple[int, int], ...], ...] = (
    ((-1, _WORD),), ((1, _WORD),), ((-2, _LOWER),), ((2, _LOWER),),
    ((-1, _SHORT),), ((1, _SHORT),), ((-1, _ENDING),), ((1, _ENDING),),
    ((-1, _LOWER), (0, _LOWER)), ((0, _LOWER), (1, _LOWER)), ((-1, _LOWER), (1, _LOWER)),
    ((-2, _LOWER), (-1, _LOWER)), ((1, _LOWER), (2, _LOWER)),
    ((-1, _LOWER), (0, _LOWER), (1, _LOWER)),
    ((-2, _LOWER), (-1, _LOWER), (0, _LOWER)), ((0, _LOWER), (1, _LOWER), (2, _LOWER)),
    ((-1, _SHORT), (0, _SHORT), (1, _SHORT)), ((-1, _LOWER), (0, _SHORT)),
    ((0, _SHORT), (1, _LOWER)),
)  # fmt: skip
"""What features are made of: for each the places beside the word, and which of their hashes."""

N_FEATURES = _OWN + len(_WINDOWS)
REACH = 2


def own_hashes(words: Iterable[str]) -> NDArray[np.int64]:
    """Return the hashes of words by themselves.

    Returns:
        ``[1 + words, own]``; the first row stands for what is beyond a sentence's ends.
    """
    return np.array([_own(""), *map(_own, words)], dtype=np.int64)


def feature_rows(hashes: NDArray[np.int64], ids: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Return the rows of the features of words in sentences.

    Args:
        hashes: of the words, by ``own_hashes``.
        ids: ``[n, length]`` rows of ``hashes``, padded with 0.
        rows: of the table; row 0 is none's.

    Returns:
        ``[n, length, N_FEATURES]``, 0 where there is no word.
    """
    padded = np.pad(ids, ((0, 0), (REACH, REACH)))
    length = ids.shape[1]
    beside = {
        (place, kind): hashes[padded[:, REACH + place : REACH + place + length], kind]
        for window in _WINDOWS
        for place, kind in window
    }
    columns = [*np.moveaxis(hashes[ids], -1, 0)]
    for window in _WINDOWS:
        total = np.zeros_like(ids)
        for part in window:
            total = (total * FACTOR + beside[part] + 1) % PRIME
        columns.append(total)
    found = np.stack(columns, -1)
    # The same hash is another feature in another column.
    found = (found * FACTOR + np.arange(N_FEATURES)) % PRIME
    return np.where(ids[..., None] == 0, 0, found % (rows - 1) + 1)


def _own(word: str) -> list[int]:
    lower = word.lower()
    shape = "".join(map(_kind, word[:20]))
    short = "".join(letter for letter, _ in groupby(shape))
    parts: Sequence[str] = (
        word, lower, shape, short, lower[-3:], lower[-1:], lower[-2:], lower[-4:], word[:1],
        lower[:2], lower[:3], lower[:4], re.sub(r"\d", "0", lower), "-".join(_inner(lower)),
    )  # fmt: skip
    return [hashed_text(part) for part in parts]


def _inner(word: str) -> list[str]:
    """Return the first and the last part of a word of several, as in ``non-small``."""
    parts = re.split(r"\W+", word)
    return [parts[0], parts[-1]] if len(parts) > 1 else []


def _kind(character: str) -> str:
    if character.isdigit():
        return "0"
    if character.isalpha():
        return "A" if character.isupper() else "a"
    return character
