"""Answers of any task as a table for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table

from wafergpt.cli.streams import shows
from wafergpt.cli.tables import Cell, Column, bar, table

BLANK = "(blank)"
"""Shown in place of a text that has no letters."""

NO_ANSWER = "–"
"""Shown in place of an answer that would be too uncertain."""

WRITTEN = ("translation", "reply", "answer")
"""Keys of answers that are texts."""

Answer = Mapping[str, Any]


def answers_table(texts: Sequence[str], outputs: Sequence[Answer | None], width: int) -> Table:
    """Return texts beside what was found: labels, entities, numbers, or what was written.

    Args:
        texts: that were given.
        outputs: the answer to each, None to a blank one.
        width: of the terminal, in cells.
    """
    answers = [output for output in outputs if output]
    columns, cells = _columns(answers)
    # A text beside another one is read as a whole.
    text = Column("text", min_width=16, folds=_written(answers) is not None)
    blank = [""] * len(columns)
    rows = [
        (t, *cells(output)) if output else (t.strip() or BLANK, *blank)
        for t, output in zip(texts, outputs, strict=True)
    ]
    return table([text, *columns], rows, width)


def _columns(
    answers: Sequence[Answer],
) -> tuple[list[Column], Callable[[Answer], Sequence[Cell | str]]]:
    """Return the columns of answers, and what makes their cells."""
    keys = {key for answer in answers for key in answer}
    if "entities" in keys:
        columns = [Column("entities", min_width=16, folds=True)]
        return columns, lambda answer: [_entities(answer["entities"])]
    if "embedding" in keys:
        # A vector is for programs: people see how it begins.
        return [Column("embedding")], lambda answer: [_vector(answer["embedding"])]
    if "rank" in keys:
        columns = [Column("rank", right=True), Column("score", right=True, rank=1)]
        return columns, lambda answer: [str(answer["rank"]), f"{answer['score']:.4g}"]
    if "labels" in keys:
        columns = [Column("labels", min_width=16, folds=True)]
        return columns, lambda answer: [_several(answer)]
    if (written := _written(answers)) is not None:
        columns = [Column(written, min_width=16, folds=True)]
        return columns, lambda answer: [answer[written]]
    if "value" in keys:
        return [Column("value", right=True)], lambda answer: [f"{answer['value']:.4g}"]
    columns = [Column("label", min_width=12), Column("probability", right=True, rank=1)]
    return [*columns, Column("", rank=2)], _label_and_score


def _written(answers: Sequence[Answer]) -> str | None:
    return next((key for answer in answers for key in WRITTEN if key in answer), None)


def _label_and_score(answer: Answer) -> list[Cell | str]:
    label = NO_ANSWER if answer["label"] is None else _label(answer["label"])
    return [label, f"{answer['score']:.1%}", bar(answer["score"])]


def _vector(numbers: Sequence[float]) -> str:
    """Return the first numbers of a vector, and how many there are."""
    shown = " ".join(f"{number:.3f}" for number in numbers[:3])
    return f"{shown} … ({len(numbers):,} numbers)"


def _entities(found: Sequence[dict[str, Any]]) -> Cell:
    """Return entities in one line, each with its label."""
    shown = ", ".join(f"{_label(one['text'])} ({_label(one['label'])})" for one in found)
    return Cell(shown or "–", "green" if found else "")


def _several(output: Answer) -> str:
    """Return labels in one line, each with its probability."""
    found = ((name, output["scores"][name]) for name in output["labels"])
    return ", ".join(f"{_label(name)} ({score:.1%})" for name, score in found) or "–"


def _label(name: str) -> str:
    """Return a label that stays distinct even if its letters cannot be shown."""
    return name if shows(name) else ascii(name)[1:-1]
