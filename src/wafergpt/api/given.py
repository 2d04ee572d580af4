"""What programs give to the public functions, as the code below them takes it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wafergpt.errors import InputError
from wafergpt.files import from_home, short

Overrides = str | Sequence[str] | Mapping[str, Any]
"""``section.key=value`` strings, or values by key."""

Rows = str | Path | Iterable[Mapping[str, Any]] | Any
"""A file of rows; or a data frame, or mappings from columns to values."""

ROWS = ".rows"
"""The folder below that of the runs which keeps rows from memory; no run has such a name."""


def overrides_of(given: Overrides) -> list[str]:
    """Return overrides as they are typed.

    Args:
        given: by the caller.

    Returns:
        ``section.key=value`` strings.

    Raises:
        InputError: if one is neither.
    """
    if isinstance(given, Mapping):
        return [f"{key}={_text(value)}" for key, value in _flat(given)]
    several = one_or_more(given)
    for one in several:
        if not isinstance(one, str):
            raise InputError(f"overrides: {short(one)} is no text such as 'train.steps=100'")
    return list(several)


def one_or_more(given: Any) -> tuple[Any, ...]:
    """Return what is given, or the one that is given alone; nothing for None."""
    if given is None:
        return ()
    # A table and a mapping iterate over their columns.
    alone = isinstance(given, str | os.PathLike | Mapping) or hasattr(given, "columns")
    if alone or not isinstance(given, Iterable):
        return (given,)
    several = tuple(given)
    # Rows of one table.
    is_table = bool(several) and all(isinstance(one, Mapping) for one in several)
    return (several,) if is_table else several


def words_of(given: Any, name: str) -> tuple[str, ...]:
    """Return one word or several.

    Args:
        given: by the caller.
        name: of the argument.

    Returns:
        The words.

    Raises:
        InputError: if one is none.
    """
    words = one_or_more(given)
    for word in words:
        if not isinstance(word, str):
            raise InputError(f"{name}: {short(word)} is no word")
    return words


def rows_file(given: Rows, root: Path) -> Path:
    """Return labelled rows as a file.

    Args:
        given: by the caller.
        root: of the runs; rows from memory are written to ``.rows`` in it.

    Returns:
        The file.

    Raises:
        InputError: if they are no rows.
    """
    if isinstance(given, str | os.PathLike):
        return Path(given)
    from wafergpt.data.given_rows import kept_rows

    return kept_rows(given, root / ROWS)


def root_of(given: str | Path) -> Path:
    """Return the folder of the runs.

    Args:
        given: by the caller, perhaps with ``~``.

    Returns:
        Its path.

    Raises:
        InputError: if it is no path.
    """
    if not isinstance(given, str | os.PathLike):
        raise InputError(f"root={short(given)} is no path of a folder")
    return from_home(given)


def _flat(given: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in given.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        value = value.tolist()
    # Numbers, flags and lists are YAML, which JSON is.
    return json.dumps(value, ensure_ascii=False, default=str)
