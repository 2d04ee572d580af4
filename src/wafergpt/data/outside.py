"""Rows that are of no class: they are evaluated, and never trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wafergpt.data.labelled_rows import Table, encode_labels
from wafergpt.data.row_sources import together
from wafergpt.errors import InputError, nearest
from wafergpt.files import short


def in_scope(table: Table, outside: str) -> Table:
    """Return the rows that are of a class.

    Args:
        table: any.
        outside: the label of rows that are of none; "" if there are no such rows.
    """
    if not outside:
        return table
    return table.take([row for row, label in enumerate(table.labels) if label != outside])


def without_outside(
    tables: Mapping[str, Table], outside: str, held_out: float
) -> tuple[dict[str, Table], list[str]]:
    """Take rows of no class out of the training rows, where validation rows are there.

    Args:
        tables: ``train``, and ``validation`` and ``test`` where there are any.
        outside: the label of rows that are of no class.
        held_out: the share of the training rows that validation rows are where none are there.

    Returns:
        The tables, and notes for people.

    Raises:
        InputError: if no row has that label.
    """
    counts = {name: table.labels.count(outside) for name, table in tables.items()}
    if not any(counts.values()):
        known = {label for table in tables.values() for label in table.labels}
        raise InputError(
            f"no row has the label task.out_of_scope={outside}{nearest(outside, known)}"
        )
    found, notes = dict(tables), []
    if "validation" in tables and counts["train"]:
        found["train"] = in_scope(tables["train"], outside)
    if counts["train"]:
        alone = "validation" not in tables and held_out
        where = "held out for validation" if alone else "left out"
        notes.append(f"{counts['train']:,} training rows of {short(outside)} are {where}")
    return found, notes


def with_outside(held: Table, train: Table, outside: str) -> Table:
    """Add the training rows of no class to those that were held out."""
    rows = [row for row, label in enumerate(train.labels) if outside and label == outside]
    if not rows:
        return held
    return together([held, train.take(rows)], train.path or Path())


def encode_in_scope(
    table: Table, labels: Sequence[str], where: str, outside: str
) -> NDArray[np.int64]:
    """Return the class ``[n]`` of each row; -1 for those of no class.

    Raises:
        InputError: on a label that no training row has; ``where`` names the set of rows.
    """
    found = np.full(len(table.texts), -1, dtype=np.int64)
    known = np.array([not outside or label != outside for label in table.labels], dtype=np.bool_)
    if known.any():
        found[known] = encode_labels(in_scope(table, outside), labels, where)
    elif outside:
        raise InputError(f"all {where} rows have the label {short(outside)}, which is no class")
    return found
