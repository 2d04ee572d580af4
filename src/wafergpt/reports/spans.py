"""Contexts with the answers to questions in colour."""

from __future__ import annotations

from wafergpt.reports.formatting import sequence
from wafergpt.reports.markup import escape

Place = tuple[int, int]


def span_examples(test: object) -> str:
    """Return the questions of a result's ``test`` on their contexts as HTML; "" if there are none.

    The predicted answer is marked, underlined if it is wrong; a true one that was missed follows.
    """
    shown = []
    for example in sequence(test, "examples"):
        match example:
            case {"question": str(question), "context": str(context), "predicted": found}:
                true = _places(sequence(example, "true"), len(context))
                predicted = _places([found], len(context))
                shown.append(_question(question, context, true, predicted))
    return f'<div class="card"><h3>What it answers</h3>{"".join(shown)}</div>' if shown else ""


def _places(values: object, length: int) -> list[Place]:
    found = []
    for value in values if isinstance(values, list) else []:
        match value:
            case [int(start), int(end)] if 0 <= start < end <= length:
                found.append((start, end))
    return found


def _question(question: str, context: str, true: list[Place], predicted: list[Place]) -> str:
    marked, note = escape(context), ""
    for start, end in predicted:
        kind = "e0" if (start, end) in true else "e0 wrong"
        inside = f'<mark class="entity {kind}">{escape(context[start:end])}</mark>'
        marked = f"{escape(context[:start])}{inside}{escape(context[end:])}"
    if not predicted:
        note = "no answer" if not true else "no answer, but there is one"
    if true and not set(predicted) & set(true):
        missed = ", ".join(dict.fromkeys(context[start:end] for start, end in true))
        note = f"{f'{note}; ' if note else ''}missed: {missed}"
    elif predicted and not true:
        note = "there is no answer"
    said = f'<small class="missed">{escape(note)}</small>' if note else ""
    return f'<p class="tagged" dir="auto"><b>{escape(question)}</b><br>{marked}{said}</p>'
