"""Labelled rows: read, split, and turned into targets."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wafergpt.data.opening import lines
from wafergpt.data.reading import (
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
from wafergpt.errors import InputError, nearest
from wafergpt.files import short
from wafergpt.progress import say

T = TypeVar("T")

LABEL_CHARACTERS = 1000
"""A longer one is a text, and names no class."""

# Rows that take EXPANSION times the bytes of their file in memory come out of a bomb: text shrinks
# to a tenth of its size, mere repetition to a thousandth. HARMLESS bytes may always be taken.

ROW_BYTES = 50
"""What the shortest text takes."""


@dataclass(frozen=True)
class Table:
    """Texts with a label each, in the order of the file."""

    texts: list[str]
    labels: list[str]

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Table:
        """Return the table of the rows at these places."""
        return Table([self.texts[i] for i in rows], [self.labels[i] for i in rows])


def read_table(path: str | Path, text: str = "text", label: str = "label") -> Table:
    """Read the text and label columns of a jsonl, csv or tsv file, plain or compressed.

    Labels are kept as they are written: ``1``, ``true`` and ``positive`` are all strings.

    Raises:
        InputError: if there is no such file or column, no row, or a row without text or label.
    """
    path = Path(path)
    texts, labels = [], []
    names = (text, label)
    for number, row in _held(path, rows(path, names=names), names):
        texts.append(_text(column(row, text, path, number), text, path, number))
        value = column(row, label, path, number)
        if isinstance(value, bool):
            value = str(value).lower()
        if isinstance(value, list | dict):
            raise InputError(f"{path}, line {number}: column '{label}' is no single label")
        name = "" if value is None else str(value).strip()
        if not name:
            raise InputError(f"{path}, line {number}: an empty label in column '{label}'")
        if len(name) > LABEL_CHARACTERS:
            raise InputError(
                f"{path}, line {number}: column '{label}' has {len(name):,} characters: no label"
            )
        labels.append(whole(name, path, number))
    if not texts:
        raise InputError(f"{path} has no rows")
    say(counted(path, len(texts), names=names))
    return Table(texts, labels)


def read_texts(
    path: str | Path, text: str = "text", file_format: FileFormat | None = None
) -> list[str]:
    """Read the text column of a file, or the lines of a .txt; ``file_format`` overrides its name.

    Raises:
        InputError: if there is no such file or column, or no row.
    """
    path = Path(path)
    if require_kind(path, file_format, (text,)) == "txt":
        texts = [line.rstrip("\r\n") for _, line in _held(path, lines(path))]
    else:
        held = _held(path, rows(path, file_format=file_format, names=(text,)), (text,))
        texts = [_text(column(row, text, path, n), text, path, n) for n, row in held]
    if not texts:
        raise InputError(f"{path} has no rows")
    say(counted(path, len(texts), file_format=file_format, names=(text,)))
    return texts


def read_lines(data: bytes, name: str) -> list[str]:
    """Return the lines of bytes that come from no file, without their ends.

    Raises:
        InputError: on bytes that are no text.
    """
    texts = [line.rstrip("\r\n") for _, line in lines(Path(name), data=data)]
    say(f"{name}: {len(texts):,} row{'s' * (len(texts) != 1)}")
    return texts


def _held(
    path: Path, numbered: Iterator[tuple[int, T]], columns: Sequence[str] = ()
) -> Iterator[tuple[int, T]]:
    """Pass rows on of which some columns, or all of a line, will be held in memory."""
    require_file(path)
    size, most = 0, max(HARMLESS, EXPANSION * path.stat().st_size)
    for number, row in numbered:
        values = [row.get(name) for name in columns] if isinstance(row, dict) else [row]
        size += sum(ROW_BYTES + len(value) for value in values if isinstance(value, str))
        if size > most:
            raise InputError(
                f"{path}, line {number}: its rows take {EXPANSION} times the memory that the file "
                "takes on the disk, as no text does; if it is one, unpack it first"
            )
        yield number, row


def _text(value: object, name: str, path: Path, number: int) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{path}, line {number}: no text in column '{name}'")
    return whole(value, path, number)


def hold_out(table: Table, share: float, seed: int = 0) -> tuple[Table, Table]:
    """Split a table into (kept, held) by a hash of each text.

    The same text always falls on the same side, wherever it stands and however often.

    Raises:
        InputError: if one side would be empty.
    """
    limit = int(share * 2**64)
    key = seed.to_bytes(8, "little")
    held: list[int] = []
    kept: list[int] = []
    for row, text in enumerate(table.texts):
        data = text.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(data, digest_size=8, key=key).digest()
        (held if int.from_bytes(digest, "little") < limit else kept).append(row)
    if not held or not kept:
        raise InputError(
            f"{len(table.texts)} rows are too few to hold out {share:.0%} of them: "
            "name a validation file, or bring more rows"
        )
    return table.take(kept), table.take(held)


def label_names(table: Table) -> tuple[str, ...]:
    """Return the labels of a table in order: of numbers if all are whole, else of letters.

    Raises:
        InputError: if there is one class only.
    """
    names = set(table.labels)
    if len(names) < 2:
        raise InputError(f"all rows have the label {short(table.labels[0])}: nothing to tell apart")
    numbered = all(re.fullmatch(r"-?\d{1,18}", name) for name in names)
    return tuple(sorted(names, key=(lambda n: (int(n), n)) if numbered else None))


def encode_labels(table: Table, labels: Sequence[str], where: str) -> NDArray[np.int64]:
    """Return the class ``[n]`` of each row.

    Raises:
        InputError: on a label that training never saw; ``where`` says in which rows.
    """
    classes = {label: index for index, label in enumerate(labels)}
    for label in table.labels:
        if label not in classes:
            raise InputError(
                f"the {where} rows have the label {short(label)}, which no training row has"
                f"{nearest(label, labels)}"
            )
    return np.array([classes[label] for label in table.labels], dtype=np.int64)


def encode_scores(table: Table, where: str) -> NDArray[np.float64]:
    """Return the label ``[n]`` of each row as a number.

    Raises:
        InputError: on a label that is no finite number.
    """
    scores = np.empty(len(table.labels))
    for row, label in enumerate(table.labels):
        try:
            scores[row] = float(label)
        except ValueError:
            scores[row] = math.nan
        if not math.isfinite(scores[row]):
            raise InputError(f"the {where} rows have the label {short(label)}, which is no number")
    return scores
