"""Long stretches of text that no tokenizer splits, such as a word of a million letters.

Training a BPE takes time in the square of its longest word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from wafergpt.logs import say

LONGEST = 4096
"""The longest plausible word, number, line of dashes or indentation, in characters."""

PIECE = 256
"""Characters of each piece of a longer stretch."""

_ALIKE = re.compile(r"[^\W\d_]+|\d+|\s+|(?:[^\w\s]|_)+")
"""Runs that GPT-2's splitting keeps together: letters, digits, spaces, or other characters."""


def is_unsplit(text: str) -> bool:
    """Return quickly whether a text may have a stretch of more than ``LONGEST`` characters."""
    half = LONGEST // 2
    # A longer stretch covers two of these places.
    for place in range(0, len(text) - half, half):
        match = _ALIKE.match(text, place)
        if match is not None and match.end() - place >= half:
            return True
    return False


def cut(texts: Iterable[str]) -> Iterator[str]:
    """Yield texts to train a tokenizer on, and log at the end if any had to be cut."""
    number, longest = 0, 0
    for text in texts:
        start = 0
        for match in _ALIKE.finditer(text) if is_unsplit(text) else ():
            length = match.end() - match.start()
            if length > LONGEST:
                number, longest = number + 1, max(longest, length)
                for place in range(match.start() + PIECE, match.end(), PIECE):
                    yield text[start:place]
                    start = place
        yield text[start:]
    if number:
        what = "a stretch" if number == 1 else f"{number:,} stretches"
        of = "" if number == 1 else "the longest "
        say(
            f"{what} of text without a space or another place to split ({of}{longest:,} "
            f"characters): the tokenizer is trained on pieces of {PIECE}; the corpus keeps it whole"
        )
