"""Labelled rows: read, split, and turned into targets."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wafergpt.data.cells import cell_text, is_missing
from wafergpt.data.file_formats import (
    EXPANSION,
    HARMLESS,
    FileFormat,
    column,
    counted,
    require_file,
    require_kind,
    rows,
    whole,
)
from wafergpt.data.opening import lines
from wafergpt.data.text_columns import joined, names_of
from wafergpt.errors import InputError, nearest
from wafergpt.files import short
from wafergpt.logs import say

T = TypeVar("T")

LABEL_CHARACTERS = 1000
"""A longer label is a text, not the name of a class."""

# Rows that take EXPANSION times the bytes of their file in memory come from a decompression bomb:
# text shrinks to a tenth of its size, repetition to a thousandth. HARMLESS bytes are allowed.

ROW_BYTES = 50
"""Memory of the shortest text."""


CLASSES = 1000
"""More labels than this, on fewer than two rows each, are not classes."""


OTHER_LABELS = (
    "name the column of labels with task.label=COLUMN, or predict numbers with task.name=regress"
)
"""Advice for labels that are not classes."""


@dataclass(frozen=True)
class Table:
    """Texts with a label each, in the order of the file.

    Attributes:
        texts: the texts, none blank.
        labels: as written in the file; JSON's true is ``true``.
        path: the file.
        lines: the line of each row in the file.
        paths: the file of each row, if they are of several.
        numeric: whether some labels are JSON's numbers.
        notes: notes for people about the rows, a line each.
    """

    texts: list[str]
    labels: list[str]
    path: Path | None = field(default=None, compare=False)
    lines: Sequence[int] = field(default=(), compare=False)
    paths: Sequence[Path] = field(default=(), compare=False)
    numeric: bool = field(default=False, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Table:
        """Return the table of the rows at these places."""
        return replace(
            self,
            texts=[self.texts[i] for i in rows],
            labels=[self.labels[i] for i in rows],
            lines=[self.lines[i] for i in rows] if self.lines else (),
            paths=[self.paths[i] for i in rows] if self.paths else (),
        )

    def place(self, row: int) -> str:
        """Return the place of a row, for people."""
        path = self.paths[row] if self.paths else self.path
        if self.lines:
            return f"{path}, line {self.lines[row]}"
        return f"row {row + 1}" if path is None else str(path)


def read_table(
    path: str | Path,
    text: str | Sequence[str] = "text",
    label: str | Sequence[str] = "label",
    read_label: Callable[[Mapping[str, object], Path, int], str] | None = None,
) -> Table:
    """Read the text and label columns of a jsonl, csv or tsv file, plain or compressed.

    Labels are kept as they are written: ``1``, ``true`` and ``positive`` are all strings. Rows with
    a blank text are skipped, and counted in the table's notes.

    Args:
        path: the file.
        text: the column of texts; of several ones a text is their cells, ``joined``.
        label: the column of labels, or what columns ``read_label`` reads.
        read_label: makes a label of these cells and a line's number; it may be empty.

    Raises:
        InputError: if there is no such file or column, no row with a text, a row with a text and no
            label, or a number in the text column.
    """
    path = Path(path)
    texts: list[str] = []
    labels: list[str] = []
    numbers: list[int] = []
    blank: list[int] = []
    unlabelled: list[int] = []
    columns, of_label, numeric = names_of(text), names_of(label), False
    names = (*columns, *of_label)
    for number, row in held(path, rows(path, names=names), names):
        words = _text(row, columns, path, number, "task.text=COLUMN")
        cells = {n: column(row, n, path, number, "task.label=COLUMN") for n in of_label}
        value = cells[of_label[0]]
        if not words.strip():
            blank.append(number)
        elif read_label is not None:
            texts.append(words)
            labels.append(read_label(cells, path, number))
            numbers.append(number)
            numeric |= any(map(_is_number, value if isinstance(value, list) else [value]))
        elif is_missing(value) or not str(value).strip():
            unlabelled.append(number)
        else:
            texts.append(words)
            labels.append(label_text(value, of_label[0], path, number))
            numbers.append(number)
            numeric |= _is_number(value)
    total = len(texts) + len(blank) + len(unlabelled)
    if unlabelled:
        raise InputError(
            f"{path}, line {unlabelled[0]}: an empty label in column '{of_label[0]}' (in "
            f"{len(unlabelled):,} of {total:,} rows): label them, or remove them"
        )
    notes = _notes_on_blank(path, blank, total, columns)
    say(counted(path, total, names=names))
    return Table(texts, labels, path, numbers, numeric=numeric, notes=notes)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _notes_on_blank(
    path: Path, blank: Sequence[int], total: int, columns: Sequence[str]
) -> tuple[str, ...]:
    """Return notes on rows without a text, which are skipped, and refuse a file of such rows."""
    named = "', '".join(columns)
    if blank and len(blank) == total:
        raise InputError(
            f"{path}, line {blank[0]}: no text in column '{named}', nor in any other row"
        )
    if not total:
        raise InputError(f"{path} has no rows")
    if not blank:
        return ()
    return (
        f"{path}: {len(blank):,} of {total:,} rows have no text in column '{named}' and are "
        f"skipped (first: line {blank[0]})",
    )


def text_rows(
    path: Path,
    text: str | Sequence[str] = "text",
    file_format: FileFormat | None = None,
    option: str = "--column COLUMN",
) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Yield the line, all columns and the text of each row of a file; a missing text is blank.

    Blank lines between the rows of a csv or tsv file count as rows without a text, so that results
    stay aligned with the file. A line of a .txt is a row with one column.

    Args:
        path: the file.
        text: the column of texts, or several, whose cells are ``joined``; a .txt has none.
        file_format: overrides the kind that the file's name stands for.
        option: by which a user names the column, with its value.

    Raises:
        InputError: if there is no such file or column, or a number in the text column.
    """
    names = names_of(text)
    if require_kind(path, file_format, names) == "txt":
        for number, line in held(path, lines(path)):
            words = line.rstrip("\r\n")
            yield number, {"text": words}, words
        return
    numbered = rows(path, blank_lines=True, file_format=file_format, names=names)
    for number, row in held(path, numbered, names):
        yield number, row, _text(row, names, path, number, option)


def read_texts(
    path: str | Path,
    text: str | Sequence[str] = "text",
    option: str = "--column COLUMN",
) -> list[str]:
    """Read the text column of a file, or the lines of a .txt, as ``text_rows`` does.

    Raises:
        InputError: if there is no such file or column, no row, or a number in the text column.
    """
    path = Path(path)
    names = names_of(text)
    texts = [words for _, _, words in text_rows(path, names, option=option)]
    if not texts:
        raise InputError(f"{path} has no rows")
    say(counted(path, len(texts), names=names))
    return texts


def read_lines(data: bytes, name: str) -> list[str]:
    """Return the lines of bytes, such as those of stdin, without their ends.

    Raises:
        InputError: on bytes that are not text.
    """
    texts = [line.rstrip("\r\n") for _, line in lines(Path(name), data=data)]
    say(f"{name}: {len(texts):,} row{'s' * (len(texts) != 1)}")
    return texts


def held(
    path: Path, numbered: Iterator[tuple[int, T]], columns: Sequence[str] = ()
) -> Iterator[tuple[int, T]]:
    """Yield rows, and refuse those that would take far more memory than their file.

    Args:
        path: the file.
        numbered: its lines or rows, and their numbers.
        columns: of rows, those that count.

    Raises:
        InputError: if they take too much.
    """
    require_file(path)
    size, most = 0, max(HARMLESS, EXPANSION * path.stat().st_size)
    for number, row in numbered:
        values = [row.get(name) for name in columns] if isinstance(row, dict) else [row]
        size += sum(ROW_BYTES + len(value) for value in values if isinstance(value, str))
        if size > most:
            raise InputError(
                f"{path}, line {number}: its rows take {EXPANSION} times the memory that the file "
                "takes on disk, unlike any text; if it is text, unpack it first"
            )
        yield number, row


def _text(
    row: dict[str, object], names: Sequence[str], path: Path, number: int, option: str
) -> str:
    """Return the text of a row's columns; blank if all of them are."""
    return joined(
        [cell_text(column(row, name, path, number, option), name, path, number) for name in names]
    )


def label_text(value: object, name: str, path: Path, number: int) -> str:
    """Return a label as it is written; JSON's true is ``true``.

    Raises:
        InputError: if it is none; ``path`` and the line ``number`` are named.
    """
    if isinstance(value, list | dict):
        raise InputError(f"{path}, line {number}: column '{name}' is not a single label")
    label = (str(value).lower() if isinstance(value, bool) else str(value)).strip()
    if len(label) > LABEL_CHARACTERS:
        raise InputError(
            f"{path}, line {number}: column '{name}' has {len(label):,} characters: not a label"
        )
    return whole(label, path, number)


def label_names(table: Table, known: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the labels of a table, sorted as numbers if all are whole, else as text.

    Args:
        table: the rows.
        known: labels that are there without a row, too.

    Raises:
        InputError: if there is only one class, or so many labels that they cannot be classes.
    """
    names = {*table.labels, *known}
    if len(names) < 2:
        raise InputError(f"all rows have the label {short(table.labels[0])}: nothing to tell apart")
    if len(names) > CLASSES and len(table.labels) < 2 * len(names):
        raise InputError(f"{many_labels(table)}, cannot be classes: {OTHER_LABELS}")
    return sorted_labels(names)


def sorted_labels(names: Iterable[str]) -> tuple[str, ...]:
    """Return labels sorted as numbers if all are whole, else as text."""
    names = set(names)
    numbered = all(re.fullmatch(r"-?\d{1,18}", name) for name in names)
    return tuple(sorted(names, key=(lambda n: (int(n), n)) if numbered else None))


def many_labels(table: Table) -> str:
    """Return how many labels there are, with examples."""
    return (
        f"{len(set(table.labels)):,} different labels in {len(table.labels):,} rows, such as "
        f"{short(table.labels[0])}"
    )


def encode_labels(table: Table, labels: Sequence[str], where: str) -> NDArray[np.int64]:
    """Return the class ``[n]`` of each row.

    Raises:
        InputError: on a label that no training row has; ``where`` names the set of rows.
    """
    classes = {label: index for index, label in enumerate(labels)}
    for row, label in enumerate(table.labels):
        if label not in classes:
            raise InputError(
                f"the {where} rows have the label {short(label)}, which no training row has"
                f" ({table.place(row)}){nearest(label, labels)}"
            )
    return np.array([classes[label] for label in table.labels], dtype=np.int64)


def encode_scores(table: Table, where: str) -> NDArray[np.float64]:
    """Return the label ``[n]`` of each row as a number.

    Raises:
        InputError: on a label that is not a finite number.
    """
    scores = np.empty(len(table.labels))
    for row, label in enumerate(table.labels):
        try:
            scores[row] = float(label)
        except ValueError:
            scores[row] = math.nan
        if not math.isfinite(scores[row]):
            raise InputError(
                f"the {where} rows have the label {short(label)}, not a number ({table.place(row)})"
            )
    return scores


def require_whole(table: Table, where: str) -> None:
    """Require whole numbers as labels, which ``quadratic_kappa`` is of.

    Raises:
        InputError: on another one; ``where`` names the set of rows.
    """
    for row, number in enumerate(encode_scores(table, where)):
        if number != round(number):
            raise InputError(
                f"{table.place(row)}: the label {short(table.labels[row])} is no whole number, "
                "which evaluate.metric=quadratic_kappa is for"
            )
