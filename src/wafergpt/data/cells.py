"""Values of cells: of a table, of a JSON row, or given by a program."""

from __future__ import annotations

from numbers import Number
from pathlib import Path

from wafergpt.data.file_formats import whole
from wafergpt.errors import InputError
from wafergpt.files import short


def is_missing(value: object) -> bool:
    """Return whether a value is missing: None, NaN, or pandas' NA and NaT."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    # Nothing but NaN is unlike itself.
    return isinstance(value, Number) and bool(value != value)


def described(value: object) -> str:
    """Describe a value that is not text."""
    if isinstance(value, bool):
        return f"a truth value ({value})"
    if isinstance(value, Number):
        return f"a number ({short(value)})"
    return f"a value of type {type(value).__name__} ({short(value)})"


def cell_text(value: object, name: str, path: Path, number: int) -> str:
    """Return the text of a cell, empty for an empty cell.

    Raises:
        InputError: if it is no text; ``path`` and the line ``number`` are named.
    """
    if is_missing(value):
        return ""
    if not isinstance(value, str):
        raise InputError(
            f"{path}, line {number}: column '{name}' holds {described(value)}, not a text"
        )
    return whole(value, path, number)
