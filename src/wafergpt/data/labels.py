"""Spellings of labels: which are one class, and which number each stands for."""

from __future__ import annotations

import contextlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Literal

from wafergpt.data.labelled_rows import OTHER_LABELS, Table, many_labels
from wafergpt.errors import InputError
from wafergpt.files import short

Similar = Literal["refuse", "merge", "keep"]

NUMBER = re.compile(r"[+-]?\d{1,40}(\.\d{0,40})?(e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)
BOOLEANS = {"true": Decimal(1), "false": Decimal(0)}
MISSING = {"nan", "null", "na", "n/a", "#n/a", "<na>"}
"""Written by programs for a missing value. ``none`` is not here: it can be the name of a class."""


MANY, MANY_ROWS = 100, 5
"""More labels than this, on few rows each, give a warning."""


def settle_classes(tables: Sequence[Table], similar: Similar = "refuse") -> list[Table]:
    """Return tables in which every class has one spelling, the training rows' most frequent.

    JSON's 1 and 1.0, the spellings of true and of false, and characters that Unicode calls
    equivalent are always one class. Labels that differ only in case, width, spaces, separators,
    invisible characters, or the spelling of a number or truth value may be one class.

    Args:
        tables: the training rows first.
        similar: whether labels that may be one class are refused, merged or kept apart.

    Raises:
        InputError: if there are such labels and they are refused.
    """
    # If one file has numbers, "1.0" is a number in the others too.
    numeric = any(table.numeric for table in tables)
    tables = _joined(tables, lambda label: _certain(label, numeric))
    if similar == "keep":
        return tables
    if similar == "merge":
        return _joined(tables, _folded)
    groups = [group for group in _grouped(tables, _folded) if len(group) > 1]
    if groups:
        raise InputError(_question(groups, tables))
    return tables


def doubts(tables: Sequence[Table]) -> list[str]:
    """Return warnings about labels that may be missing values, or may not be classes."""
    counts = _counts(tables)
    n_labels, n_rows = len(set(tables[0].labels)), len(tables[0].labels)
    many = n_labels > MANY and n_rows < MANY_ROWS * n_labels
    return [
        f"warning: {many_labels(tables[0])}: if they are not classes, {OTHER_LABELS}"
    ] * many + [
        f"warning: the label {short(label)} ({_counted(label, tables)}) counts as a class; if it "
        "means a missing label, remove the rows"
        for label in counts
        if label.casefold() in MISSING
    ]


def _counts(tables: Sequence[Table]) -> Counter[str]:
    return Counter(label for table in tables for label in table.labels)


def _counted(label: str, tables: Sequence[Table]) -> str:
    n = _counts(tables)[label]
    first = next(t.place(t.labels.index(label)) for t in tables if label in t.labels)
    return f"{n:,} row{'s' * (n > 1)}, first: {first}"


def _grouped(tables: Sequence[Table], key: Callable[[str], Hashable]) -> list[list[str]]:
    """Group spellings; the most frequent one of the training rows comes first."""
    training = Counter(tables[0].labels)
    groups: dict[Hashable, list[str]] = {}
    for label in _counts(tables):
        groups.setdefault(key(label), []).append(label)
    return [sorted(group, key=lambda x: (-training[x], len(x), x)) for group in groups.values()]


def _joined(tables: Sequence[Table], key: Callable[[str], Hashable]) -> list[Table]:
    names = {label: group[0] for group in _grouped(tables, key) for label in group}
    return [replace(table, labels=[names[label] for label in table.labels]) for table in tables]


def _certain(label: str, numeric: bool) -> Hashable:
    label = unicodedata.normalize("NFC", label)
    if label.lower() in BOOLEANS:
        return label.lower()
    return Decimal(label) if numeric and NUMBER.fullmatch(label) else label


def with_point(text: str) -> str:
    """Return a number, with a point for a spreadsheet's decimal comma.

    Three digits after a comma are thousands.
    """
    return re.sub(r"(?<=\d),(?!\d{3}$)(?=\d+$)", ".", text)


def spelled_alike(labels: Iterable[str]) -> list[str]:
    """Return warnings about labels that differ in spelling alone, and stay apart."""
    groups: dict[Hashable, list[str]] = {}
    for label in sorted(set(labels)):
        groups.setdefault(_folded(label), []).append(short(label))
    return [
        f"warning: the labels {' and '.join(group)} differ in spelling alone: they are learned as "
        "different ones"
        for group in groups.values()
        if len(group) > 1
    ]


def _folded(label: str) -> Hashable:
    label = unicodedata.normalize("NFKC", label).casefold()
    label = "".join(c for c in label if unicodedata.category(c) != "Cf")
    label = " ".join(label.split())
    if label in BOOLEANS:
        return BOOLEANS[label]
    number = with_point(label)
    if NUMBER.fullmatch(number):
        return Decimal(number)
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", label)


def _question(groups: Sequence[Sequence[str]], tables: Sequence[Table]) -> str:
    known = set(tables[0].labels)
    group = groups[0]
    parts = []
    for label in group[:4]:
        unseen = "" if label in known else "; none in training"
        parts.append(f"{short(label)} ({_counted(label, tables)}{unseen})")
    more = f" (and {len(groups) - 1:,} more such labels)" if len(groups) > 1 else ""
    keep = "; task.similar_labels=keep keeps them apart" if known.issuperset(group) else ""
    return (
        f"labels that differ only in spelling: {', '.join(parts)}{more}. If they are one class, "
        f"write them the same way or add task.similar_labels=merge{keep}"
    )


def settle_numbers(tables: Sequence[Table]) -> tuple[list[Table], list[str]]:
    """Return tables whose labels are numbers as Python writes them, and notes for people.

    A table has a decimal point, and perhaps commas between thousands, or the other way round. This
    is detected from all labels of the table, or else from the other tables.

    Raises:
        InputError: on a label that is not a finite number, or is ambiguous.
    """
    fits = [_decimal_marks(table) for table in tables]
    # JSON's numbers do not show how another file writes them.
    decided = {
        marks
        for table, marks in zip(tables, fits, strict=True)
        if len(marks) == 1 and not table.numeric
    }
    settled, notes = [], []
    for table, marks in zip(tables, fits, strict=True):
        if len(marks) > 1 and len(decided) == 1:
            marks = next(iter(decided))
        elif len(marks) > 1 and (row := _first(table, lambda label: "," in label)) is not None:
            label = table.labels[row]
            raise InputError(
                f"{table.place(row)}: the label {short(label)} may be {label.replace(',', '')} or "
                f"{label.replace(',', '.')}: write one of these"
            )
        labels = [_as_python(label, marks[0]) for label in table.labels]
        for old, new in zip(table.labels, labels, strict=True):
            if old != new:
                notes.append(f"{table.path}: labels such as {short(old)} are read as {new}")
                break
        settled.append(replace(table, labels=labels))
    return settled, notes


def _decimal_marks(table: Table) -> str:
    """Return which of point and comma can be the decimal mark of all labels."""
    marks = "." if table.numeric else ".,"
    names = set(table.labels)
    found = [mark for mark in marks if all(_value(name, mark) is not None for name in names)]
    if not found:
        # A label that is not a number in any style is named first.
        row = _first(table, lambda x: all(_value(x, mark) is None for mark in marks))
        if row is None:
            row = _first(table, lambda x: _value(x, ".") is None)
            assert row is not None
            raise InputError(
                f"{table.place(row)}: the label {short(table.labels[row])} has a decimal comma, "
                "and others have a decimal point: use one of them"
            )
        raise InputError(
            f"{table.place(row)}: the label {short(table.labels[row])} is not a number, which "
            "task.name=regress requires"
        )
    return "".join(found)


def _first(table: Table, test: Callable[[str], bool]) -> int | None:
    return next((row for row, label in enumerate(table.labels) if test(label)), None)


def _value(label: str, mark: str) -> float | None:
    """Return the number that a label stands for if ``mark`` is the decimal mark."""
    label = label.replace("\N{MINUS SIGN}", "-")
    # Spaces and apostrophes can only separate thousands.
    label = re.sub(r"(?<=\d)[\s'’](?=\d{3}(?!\d))", "", label)
    other = "," if mark == "." else "."
    if other in label:
        if not re.fullmatch(rf"[+-]?[1-9]\d{{0,2}}(\{other}\d{{3}})+(\{mark}\d*)?", label):
            return None
        label = label.replace(other, "")
    try:
        value = float(label.replace(mark, "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _as_python(label: str, mark: str) -> str:
    value = _value(label, mark)
    with contextlib.suppress(ValueError):
        if float(label) == value:
            return label
    return repr(value)
