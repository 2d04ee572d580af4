"""Files read row by row: txt, jsonl, csv and tsv, plain or compressed; xlsx and Parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from wafergpt.data.binary_tables import binary_kind, binary_rows, sheet_note
from wafergpt.data.dialects import DELIMITERS, Fault, Format, Table, detect
from wafergpt.data.json_rows import TWICE, begins_list, json_object, json_rows
from wafergpt.data.opening import COMPRESSED, Errors, NotTextError, encoding_of, lines
from wafergpt.errors import InputError, nearest
from wafergpt.files import short

FileFormat = Literal["txt", "jsonl", "csv", "tsv", "xlsx", "parquet"]

KINDS: dict[str, FileFormat] = {
    ".txt": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
    ".parquet": "parquet",
}

EXPANSION = 100
"""Text compresses about tenfold; of a file that unpacks to more, only the start is examined."""

HARMLESS = 4 << 20
"""Characters that are always read to detect a dialect, whatever the size of the file."""

BINARY: tuple[FileFormat, ...] = ("xlsx", "parquet")
"""Kinds that are not text."""

_PREFERRED = {"csv": ",", "tsv": "\t"}


def suffix(path: Path) -> str:
    """Return a file's ending in lower case, without that of a compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def kind(path: Path) -> FileFormat | None:
    """Return the kind that a file's name stands for, or None."""
    return KINDS.get(suffix(path))


def require_file(path: Path) -> None:
    """Check that a file exists.

    Raises:
        InputError: if it does not.
    """
    if not path.is_file():
        there = (
            "is not a regular file: save it as one first"
            if path.exists() and not path.is_dir()
            else ""
        )
        raise InputError(f"{path} {there}" if there else f"no such file: {path}")


def require_kind(
    path: Path, file_format: FileFormat | None = None, names: Collection[str] = ()
) -> FileFormat:
    """Return the kind of a file: as given, or else by its name, or else by its first line.

    A table that is not text is known by its content, whatever its name. If the name is not known,
    or is that of such a table, a file whose first line is a JSON object is jsonl, one whose first
    line has ``names`` among its columns is csv, and any other text is txt. A .txt is a table if
    several names are required and its first line has them.

    Raises:
        InputError: if there is no such file, it contains no text, or is a binary table of another
            kind than the given one.
    """
    require_file(path)
    if found := binary_kind(path):
        if file_format not in (None, found):
            raise InputError(f"{path} is {found}, not {file_format}: name that format, or none")
        return found
    known = file_format or kind(path)
    if known in BINARY and file_format is None:
        # A text with the name of another kind.
        known = None
    if known and (known != "txt" or file_format or len(names) < 2):
        return known
    for _, line in lines(path):
        if line.strip():
            return _kind_of_first(line, names)
    return "txt"


def _kind_of_first(line: str, names: Collection[str]) -> FileFormat:
    if json_object(line) is not None or begins_list(line):
        return "jsonl"
    for delimiter in DELIMITERS:
        header = {name.strip().strip('"') for name in line.split(delimiter)}
        if names and len(header) > 1 and header.issuperset(names):
            return "csv"
    return "txt"


def rows(
    path: Path,
    errors: Errors = "strict",
    blank_lines: bool = False,
    file_format: FileFormat | None = None,
    names: Collection[str] = (),
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the first line's number and the named columns of each row of a jsonl, csv or tsv file.

    Args:
        path: the file.
        errors: ``replace`` reads invalid bytes as U+FFFD instead of refusing them.
        file_format: the kind of the file; None detects it.
        names: the required columns, which help to detect the kind.
        blank_lines: read a blank line between rows of csv and tsv as a row of empty columns.

    Raises:
        InputError: on a line that is not a row.
    """
    found = require_kind(path, file_format, names)
    if found == "jsonl":
        yield from json_rows(path, errors)
    elif found == "xlsx" or found == "parquet":
        yield from binary_rows(path, found, blank_lines)
    elif found == "txt":
        raise InputError(
            f"{path} has no columns: rows must be jsonl, or csv or tsv with the column names in "
            "the first line"
        )
    else:
        yield from _table_rows(path, found, errors, blank_lines)


def _table_rows(
    path: Path, found: FileFormat, errors: Errors, blank_lines: bool
) -> Iterator[tuple[int, dict[str, Any]]]:
    table = iter(Table(lines(path, errors), _table_format(path, found, errors).dialect))
    try:
        header = next(table, None)
        if header is None:
            return
        names = header.values
        counts = Counter(names)
        twice = {name: TWICE for name in names if counts[name] > 1}
        # Blank lines at the end are not rows.
        blank: list[int] = []
        for row in table:
            if not row.values:
                blank.append(row.first)
                continue
            if blank_lines:
                yield from ((number, dict.fromkeys(names, "")) for number in blank)
            blank.clear()
            pairs = [*zip(names, row.values, strict=True)]
            values = {**dict(pairs), **twice}
            if "" in twice and not any(value for name, value in pairs if not name):
                # Empty columns at the end of a spreadsheet.
                values[""] = ""
            yield row.first, values
    except Fault as fault:
        raise InputError(f"{path}, line {fault.line}: {fault.reason}") from None


def _table_format(path: Path, found: FileFormat, errors: Errors) -> Format:
    stat = path.stat()
    # A csv without a csv's name may just as well have tabs.
    preferred = _PREFERRED[found] if found in (kind(path), "tsv") else ""
    return _cached_format(path, preferred, errors, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1000)
def _cached_format(path: Path, preferred: str, errors: Errors, size: int, changed: int) -> Format:
    """Detect a table's dialect, once for all readings of an unchanged file."""
    try:
        return detect(partial(lines, path, errors), preferred, max(HARMLESS, EXPANSION * size))
    except Fault as fault:
        raise InputError(f"{path}, line {fault.line}: {fault.reason}") from None


def counted(
    path: Path,
    count: int,
    what: str = "rows",
    file_format: FileFormat | None = None,
    names: Collection[str] = (),
    errors: Errors = "strict",
) -> str:
    """Return a line with the number of rows, and how the file was read if that is not obvious."""
    found = require_kind(path, file_format, names)
    notes = [] if found in (file_format, kind(path)) else [f"read as {found}"]
    encoding = "utf-8" if found in BINARY else encoding_of(path)
    if found == "xlsx" and (sheet := sheet_note(path)):
        notes.append(sheet)
    if encoding != "utf-8":
        notes.append(encoding.upper().removesuffix("-LE").removesuffix("-BE"))
    if found in _PREFERRED:
        notes += _table_format(path, found, errors).notes
    what = what.removesuffix("s") if count == 1 else what
    return f"{path}: {count:,} {what}" + (f" ({', '.join(notes)})" if notes else "")


def whole(text: str, path: Path, number: int) -> str:
    """Return a text that can be encoded: a lone surrogate, which JSON can escape, cannot.

    Raises:
        NotTextError: if the text has a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotTextError(f"{path}, line {number}: a lone surrogate is not a character") from None
    return text


def column(row: dict[str, Any], name: str, path: Path, number: int, option: str) -> Any:
    """Return the named column of a row; ``option`` is how a user names another one.

    Raises:
        InputError: if there is none, with the existing names, or more than one.
    """
    if name not in row:
        there = ", ".join(map(short, list(row)[:10]))
        raise InputError(
            f"{path}, line {number}: no column '{name}'{_alike(name, row)} (columns: {there}); "
            f"{option} names another"
        )
    value = row[name]
    if value is TWICE:
        raise InputError(
            f"{path}, line {number}: more than one column '{name}': rename all but one"
        )
    return value


def _alike(name: str, names: Collection[str]) -> str:
    """Propose the name that differs in case or spaces only, or else the nearest."""
    plain = {other.strip().casefold(): other for other in names}
    found = plain.get(name.strip().casefold())
    return nearest(name, names) if found is None else f"; did you mean '{found}'?"
