"""Entities as tags of words: BIO, IOB1 and BIOES, and what each of them allows.

Letters of other names are read too: BILOU's L and U, and BMES' M, are BIOES' E, S and I.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Scheme = Literal["BIO", "IOB1", "BIOES"]

OUTSIDE = "O"

UNNAMED = "entity"
"""The label of tags without one: B, I, O."""

_TAG = re.compile(r"([BIESLUMW])(?:[-_](.+))?")
_LETTERS = {"L": "E", "U": "S", "M": "I", "W": "S"}
_OPEN = ("B", "I")


class Entity(NamedTuple):
    """A named entity.

    Attributes:
        start: its first word.
        end: the word after its last one.
        label: what it is.
    """

    start: int
    end: int
    label: str


class Tag(NamedTuple):
    """A tag: the letter of a word's place in an entity (``O``: in none), and the label."""

    letter: str
    label: str


def parsed(text: str) -> Tag | None:
    """Return a tag as it is written in a file, in the letters of BIOES; None if it is none."""
    if text == OUTSIDE:
        return Tag(OUTSIDE, "")
    found = _TAG.fullmatch(text)
    if found is None:
        return None
    letter, label = found.groups()
    return Tag(_LETTERS.get(letter, letter), label or UNNAMED)


def entities(tags: Sequence[Tag]) -> tuple[Entity, ...]:
    """Return the entities of a sentence as conlleval reads them, whatever the scheme.

    An I or an E that continues nothing begins an entity, as ``task.repair`` wants it.
    """
    found, start = [], None
    for place, tag in enumerate([*tags, Tag(OUTSIDE, "")]):
        before = tags[place - 1] if place else Tag(OUTSIDE, "")
        if start is not None and not _continues(before, tag):
            found.append(Entity(start, place, before.label))
            start = None
        if start is None and tag.letter != OUTSIDE:
            start = place
    return tuple(found)


def _continues(before: Tag, tag: Tag) -> bool:
    return tag.letter in ("I", "E") and _goes_on(before, tag)


def scheme_of(pairs: Mapping[tuple[Tag, Tag], int]) -> Scheme:
    """Return the scheme of a file by how often which tag follows which.

    With I and B alone it is what most entities begin with that do not follow one of their label:
    I in IOB1, which is read in one way whatever stands there, or B in BIO.
    """
    if any(tag.letter in ("E", "S") for _, tag in pairs):
        return "BIOES"
    begins = Counter[str]()
    for (before, tag), count in pairs.items():
        if not _goes_on(before, tag):
            begins[tag.letter] += count
    return "IOB1" if begins["I"] > begins["B"] else "BIO"


def fault(before: Tag, tag: Tag, scheme: Scheme) -> bool:
    """Return whether a scheme forbids a tag after another; O stands for a sentence's ends."""
    if scheme == "IOB1":
        return False
    if tag.letter == "I" or (tag.letter == "E" and scheme == "BIOES"):
        return not _goes_on(before, tag)
    return scheme == "BIOES" and before.letter in _OPEN


def _goes_on(before: Tag, tag: Tag) -> bool:
    return before.letter in _OPEN and before.label == tag.label


def tag_names(labels: Sequence[str]) -> list[Tag]:
    """Return the tags that a network tells apart: O, and B, I, E and S of each label."""
    return [Tag(OUTSIDE, ""), *(Tag(letter, label) for label in labels for letter in "BIES")]


def tags_of(found: Iterable[Entity], length: int, labels: Sequence[str]) -> NDArray[np.int64]:
    """Return the places ``[length]`` in ``tag_names`` of the tags of a sentence's words."""
    tags = np.zeros(length, dtype=np.int64)
    for start, end, label in found:
        first = 1 + 4 * labels.index(label)
        if end - start == 1:
            tags[start] = first + 3
        else:
            tags[start], tags[start + 1 : end - 1], tags[end - 1] = first, first + 1, first + 2
    return tags


def allowed(labels: Sequence[str]) -> NDArray[np.bool_]:
    """Return which tag may follow which, in the order of ``tag_names``.

    Returns:
        ``[n + 1, n + 1]``: row ``i``, column ``j`` is true if ``j`` may follow ``i``. The last row
        is before the first word, the last column after the last one.
    """
    names = [*tag_names(labels), Tag(OUTSIDE, "")]
    return np.array([[not fault(one, other, "BIOES") for other in names] for one in names])


def written(found: Iterable[Entity], length: int) -> Iterator[str]:
    """Yield the tags of a sentence's words in BIO."""
    tags = [OUTSIDE] * length
    for start, end, label in found:
        tags[start:end] = [f"B-{label}", *[f"I-{label}"] * (end - start - 1)]
    yield from tags
