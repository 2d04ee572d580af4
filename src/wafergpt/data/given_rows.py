"""Rows that a program holds in memory: a data frame, or mappings."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeGuard

from wafergpt import atomic_files
from wafergpt.data.cells import described, is_missing
from wafergpt.data.table_writing import row_line
from wafergpt.errors import InputError
from wafergpt.logs import say

TABLES = ("to_dicts", "to_pylist", "to_dict")
"""What turns a table of polars, of pyarrow and of pandas into rows."""


def is_table(value: object) -> TypeGuard[Any]:
    """Return whether a value is a data frame."""
    return hasattr(value, "columns") and any(hasattr(value, name) for name in TABLES)


def rows_of_table(table: Any) -> list[dict[str, Any]]:
    """Return the rows of a data frame.

    Args:
        table: of pandas, polars or pyarrow.

    Returns:
        A mapping from columns to values for each.

    Raises:
        InputError: if two columns have one name.
    """
    names = list(map(str, getattr(table, "column_names", table.columns)))
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"the table has two columns '{twice}'")
    name = next(name for name in TABLES if hasattr(table, name))
    return list(getattr(table, name)(*(["records"] if name == "to_dict" else [])))


def kept_rows(rows: Any, folder: Path) -> Path:
    """Write rows as JSON Lines, for a run reads its rows again; the same ones only once.

    Args:
        rows: a data frame, or mappings from columns to values.
        folder: to write to.

    Returns:
        The file, whose name is a digest of what it holds.

    Raises:
        InputError: if they are something else.
    """
    known = rows_of_table(rows) if is_table(rows) else rows
    if isinstance(known, Mapping | str | bytes) or not isinstance(known, Iterable):
        raise InputError(f"rows are a file, a data frame or mappings, not {described(known)}")
    lines = []
    for place, row in enumerate(known):
        if not isinstance(row, Mapping):
            raise InputError(
                f'row {place} is {described(row)}; a mapping such as {{"text": …, "label": …}} is '
                "wanted"
            )
        plain = {str(name): _plain(row[name], f"row {place}, '{name}'") for name in row}
        if len(plain) < len(row):
            raise InputError(f"row {place} has two columns of one name")
        lines.append(row_line("jsonl", (), plain))
    if not lines:
        raise InputError("there are no rows")
    data = "".join(lines).encode()
    path = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.jsonl"
    if not path.is_file():
        atomic_files.write_bytes(path, data)
    say(f"{len(lines):,} rows are kept in {path}")
    return path


def _plain(value: Any, place: str) -> Any:
    """Return a value as JSON has it.

    Args:
        value: of a cell.
        place: to name in an error.
    """
    if isinstance(value, Decimal):
        value = float(value)
    if is_missing(value):
        return None
    if isinstance(value, date | time):
        return value.isoformat()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, place) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, place) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{place}: {value} is no number")
    if isinstance(value, str | int | float):
        return value
    raise InputError(f"{place}: {described(value)}; text, numbers and lists of them are wanted")
