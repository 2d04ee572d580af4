"""Sentences with their named entities in colour, as a tagger found them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wafergpt.data.word_splitting import joined
from wafergpt.reports.formatting import sequence
from wafergpt.reports.markup import escape

COLOURS = 6
"""Of labels; more share them."""

Found = tuple[int, int, str]


def entity_examples(test: object) -> str:
    """Return the sentences of a result's ``test`` as HTML; "" if there are none.

    Entities have the colour of their label. What was predicted and is wrong is underlined, and what
    was missed follows its sentence.
    """
    shown, colours = [], _colours(test)
    for example in sequence(test, "examples"):
        words = sequence(example, "words")
        if not words or not all(isinstance(word, str) for word in words):
            continue
        true, predicted = (_entities(example, key, len(words)) for key in ("true", "predicted"))
        shown.append(_sentence(words, true, predicted, colours))
    return f'<div class="card"><h3>What it finds</h3>{"".join(shown)}</div>' if shown else ""


def _colours(test: object) -> Mapping[str, int]:
    rows = [row for row in sequence(test, "per_class") if isinstance(row, Mapping)]
    return {str(row.get("label")): place % COLOURS for place, row in enumerate(rows)}


def _entities(example: object, key: str, length: int) -> list[Found]:
    """Return the valid entities of an example, in the order of the words."""
    found = []
    for entity in sequence(example, key):
        match entity:
            case [int(start), int(end), str(label)] if 0 <= start < end <= length:
                found.append((start, end, label))
    return sorted(found)


def _sentence(
    words: Sequence[str],
    true: Sequence[Found],
    predicted: Sequence[Found],
    colours: Mapping[str, int],
) -> str:
    text, placed = joined(words)
    parts: list[str] = []
    place = 0
    for entity in predicted:
        start, end = placed[entity[0]].start, placed[entity[1] - 1].end
        if start < place:
            continue
        parts += [escape(text[place:start]), _mark(text[start:end], entity, colours, true)]
        place = end
    parts.append(escape(text[place:]))
    missed = [entity for entity in true if entity not in predicted]
    lost = ", ".join(
        f"{text[placed[start].start : placed[end - 1].end]} ({label})"
        for start, end, label in missed
    )
    note = f'<small class="missed">missed: {escape(lost)}</small>' if missed else ""
    return f'<p class="tagged" dir="auto">{"".join(parts)}{note}</p>'


def _mark(text: str, entity: Found, colours: Mapping[str, int], true: Sequence[Found]) -> str:
    wrong = "" if entity in true else " wrong"
    label: Any = entity[2]
    return (
        f'<mark class="entity e{colours.get(label, 0)}{wrong}">{escape(text)}'
        f"<small>{escape(label)}</small></mark>"
    )
