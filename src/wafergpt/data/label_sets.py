"""Rows with any number of labels: lists in JSON, cells with a separator, or a column for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wafergpt.data.cells import is_missing
from wafergpt.data.file_formats import whole
from wafergpt.data.labelled_rows import (
    CLASSES,
    LABEL_CHARACTERS,
    OTHER_LABELS,
    Table,
    encode_labels,
    label_text,
    many_labels,
    sorted_labels,
)
from wafergpt.data.labelled_split import hold_out_of_each_class
from wafergpt.data.labels import Similar, doubts, settle_classes
from wafergpt.data.text_columns import BETWEEN
from wafergpt.errors import InputError
from wafergpt.files import short

SEPARATORS = "|;,"

YES, NO = {"1", "1.0", "true"}, {"0", "0.0", "false", ""}
"""Cells of a column that stands for a label."""


def label_set(cells: Mapping[str, object], path: Path, number: int) -> str:
    """Return the labels of a row as one string: as written, or each one ended by ``BETWEEN``.

    Args:
        cells: by column: labels, or 0 and 1 in a column for each label.
        path: of the file, for errors.
        number: of the line.

    Raises:
        InputError: if a list holds something else than labels, or a cell is neither 0 nor 1.
    """
    if len(cells) > 1:
        found = [name for name, cell in cells.items() if _is_set(cell, name, path, number)]
        return BETWEEN.join(found) + BETWEEN
    ((name, value),) = cells.items()
    if isinstance(value, list):
        labels = [label_text(one, name, path, number) for one in value if not is_missing(one)]
        return "".join(label.replace(BETWEEN, " ") + BETWEEN for label in labels) or BETWEEN
    if isinstance(value, str):
        # As long as its labels are together.
        return whole(value.replace(BETWEEN, " "), path, number)
    return "" if is_missing(value) else label_text(value, name, path, number)


def _is_set(value: object, name: str, path: Path, number: int) -> bool:
    cell = "" if is_missing(value) else str(value).strip().lower()
    if cell not in YES | NO:
        raise InputError(
            f"{path}, line {number}: column '{name}' of task.label holds {short(value)}, where 1 "
            "(it has the label) or 0 is wanted"
        )
    return cell in YES


def settle_label_sets(
    tables: Sequence[Table], separator: str, similar: Similar, known: Table | None = None
) -> tuple[list[Table], list[str]]:
    """Split the labels of each row, give each label one spelling, and say what was found.

    Args:
        tables: as they were read, the training rows first.
        separator: of the labels in a cell; found if empty.
        similar: as for ``settle_classes``.
        known: a row for each label whose spelling counts before those of the tables.

    Returns:
        Tables whose labels are joined by ``BETWEEN``, and notes for people.

    Raises:
        InputError: if the separator or a spelling is not certain, or there is no label.
    """
    cells = [label for table in tables for label in table.labels if BETWEEN not in label]
    separator = separator or _separator(cells)
    split = [[_split(label, separator) for label in table.labels] for table in tables]
    if not any(labels for labels in split[0]):
        raise InputError("no training row has a label: nothing to learn")
    alone = [_one_each(table, sets) for table, sets in zip(tables, split, strict=True)]
    for table in alone:
        for row, label in enumerate(table.labels):
            if len(label) > LABEL_CHARACTERS:
                raise InputError(f"{table.place(row)}: {short(label)} is too long for a label")
    before = [] if known is None else [known]
    settled = settle_classes([*before, *alone], similar)[len(before) :]
    found = []
    for table, sets, names in zip(tables, split, settled, strict=True):
        spelled = iter(names.labels)
        merged = [sorted({next(spelled) for _ in labels}) for labels in sets]
        found.append(replace(table, labels=[BETWEEN.join(labels) for labels in merged]))
    return found, [_counted(found[0], separator), *doubts(settled)]


def _separator(cells: Sequence[str]) -> str:
    """Return the separator that is certain; "" if all cells are of one label."""
    there = [mark for mark in SEPARATORS if any(mark in cell for cell in cells)]
    if len(there) > 1:
        raise InputError(
            f"labels such as {short(next(c for c in cells if there[-1] in c))} may be separated by "
            f"{' or '.join(there)}: add task.separator='{there[0]}', or the one it is"
        )
    if there == [","]:
        # A name may have a comma: labels occur in other company too.
        different = {cell: _split(cell, ",") for cell in cells}
        counts = Counter(label for labels in different.values() for label in set(labels))
        parts = [label for labels in different.values() if len(labels) > 1 for label in labels]
        if 2 * sum(counts[label] > 1 for label in parts) < len(parts):
            raise InputError(
                f"labels such as {short(next(c for c in cells if ',' in c))} may be one label or "
                "several: add task.separator=',' if the comma separates them, or another one"
            )
    return there[0] if there else ""


def _split(label: str, separator: str) -> list[str]:
    mark = BETWEEN if BETWEEN in label else separator
    parts = label.split(mark) if mark else [label]
    return list(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _one_each(table: Table, sets: Sequence[Sequence[str]]) -> Table:
    """Return a table with a row for each label of each row."""
    rows = [row for row, labels in enumerate(sets) for _ in labels]
    return replace(table.take(rows), labels=[label for labels in sets for label in labels])


def _counted(table: Table, separator: str) -> str:
    sets = [labels_of(label) for label in table.labels]
    total, without = sum(map(len, sets)), sum(not labels for labels in sets)
    names = len({label for labels in sets for label in labels})
    apart = f", separated by '{separator}'" if separator else ""
    return (
        f"{names:,} labels{apart}; {total / len(sets):.2f} per training row on average, "
        f"{without:,} row{'s' * (without != 1)} without a label"
    )


def labels_of(label: str) -> list[str]:
    """Return the labels of a settled row."""
    return label.split(BETWEEN) if label else []


def label_set_names(table: Table) -> tuple[str, ...]:
    """Return the labels of a settled table, in the order of a model's outputs.

    Raises:
        InputError: if they cannot be learned.
    """
    alone = _one_each(table, [labels_of(label) for label in table.labels])
    names = set(alone.labels)
    if len(names) == 1 and len(alone.labels) == len(table.labels):
        raise InputError(f"all rows have the label {short(alone.labels[0])}: nothing to tell apart")
    if len(names) > CLASSES and len(alone.labels) < 2 * len(names):
        raise InputError(f"{many_labels(alone)}, cannot be classes: {OTHER_LABELS}")
    return sorted_labels(names)


def encode_label_sets(table: Table, labels: Sequence[str], where: str) -> NDArray[np.int64]:
    """Return 1 for each label of each row, ``[n, n_labels]``.

    Raises:
        InputError: on a label that no training row has; ``where`` names the set of rows.
    """
    sets = [labels_of(label) for label in table.labels]
    found = np.zeros((len(sets), len(labels)), dtype=np.int64)
    rows = [row for row, of_row in enumerate(sets) for _ in of_row]
    found[rows, encode_labels(_one_each(table, sets), labels, where)] = 1
    return found


def hold_out_label_sets(
    table: Table, share: float, by: Sequence[str] | None = None
) -> tuple[Table, Table, list[str]]:
    """Split a settled table into (kept, held), stratified by the rarest label of each row.

    Args:
        table: the rows.
        share: to hold out.
        by: what names each text, if it is not itself that counts.

    Returns:
        Kept, held, and the labels without a held row.

    Raises:
        InputError: if there are too few texts.
    """
    sets = [labels_of(label) for label in table.labels]
    counts = Counter(label for labels in sets for label in labels)
    rarest = [min(labels, key=lambda x: (counts[x], x), default="") for labels in sets]
    places = replace(table, labels=rarest, lines=range(len(sets)))
    kept, held, _ = hold_out_of_each_class(places, share, by)
    texts = by or table.texts
    inside, outside = (list(part.lines) for part in (kept, held))
    left = {label for row in inside for label in sets[row]}
    # A label stays in training, with all rows of its text.
    back = {texts[row] for row in outside if not left.issuperset(sets[row])}
    inside = sorted([*inside, *(row for row in outside if texts[row] in back)])
    outside = [row for row in outside if texts[row] not in back]
    if not outside:
        raise InputError(
            f"{len(sets):,} rows are too few to hold out {share:.0%} of them: name a validation "
            "file (task.validation=FILE), or add more rows"
        )
    without = counts.keys() - {label for row in outside for label in sets[row]}
    names = sorted(without, key=lambda name: (counts[name], name))
    return table.take(inside), table.take(outside), names
