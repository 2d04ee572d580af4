"""Tables that are not text: Excel's .xlsx, and Parquet. Both are read row by row."""

from __future__ import annotations

import datetime
import math
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from wafergpt.data.json_rows import TWICE
from wafergpt.errors import InputError
from wafergpt.logs import say_once

BinaryKind = Literal["xlsx", "parquet"]

EXPANSION, HARMLESS = 100, 64 << 20
"""A workbook that unpacks to more than so many times its size, and to more than so many bytes, is
no table."""

ROWS = 1024
"""Rows of a Parquet file that are held at once."""

_WORKBOOK = "xl/workbook.xml"
_INSTALL = "pip install 'wafergpt[tables]'"


def binary_kind(path: Path) -> BinaryKind | None:
    """Return what kind of binary table a file is, by its content alone; None for any other."""
    with path.open("rb") as file:
        head = file.read(4)
    if head == b"PAR1":
        return "parquet"
    if head == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(path) as archive:
                return "xlsx" if _WORKBOOK in archive.namelist() else None
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return None
    return None


def binary_rows(
    path: Path, kind: BinaryKind, blank_lines: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the named columns of each row.

    Cells of a workbook are texts, as in a csv of it: a whole number has no decimal point, a date is
    written as in ISO 8601.

    Args:
        path: the file.
        kind: of the file.
        blank_lines: give an empty row between others, too.

    Raises:
        InputError: if it is damaged, or the library that reads it is not installed.
    """
    yield from _workbook_rows(path, blank_lines) if kind == "xlsx" else _parquet_rows(path)


def sheet_note(path: Path) -> str:
    """Return which sheet of a workbook is read, if it has several; else ""."""
    with _workbook(path) as book:
        several = len(book.sheetnames) > 1
        return f"sheet '{_shown(book)[0].title}' of {len(book.sheetnames)}" if several else ""


@contextmanager
def _workbook(path: Path) -> Iterator[Any]:
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise InputError(f"{path} is read by openpyxl: {_INSTALL}") from None
    # By its name, openpyxl would refuse a workbook that was renamed.
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                size = sum(one.file_size for one in archive.infolist())
            if size > max(HARMLESS, EXPANSION * path.stat().st_size):
                raise InputError(f"{path} unpacks to {size >> 20:,} MiB, unlike any table")
            with warnings.catch_warnings():
                # Of parts that hold no cells: styles, validations, extensions.
                warnings.simplefilter("ignore")
                book = load_workbook(file, read_only=True, data_only=True)
        except InputError:
            raise
        except Exception as error:
            raise _damaged(path, error) from None
        try:
            yield book
        finally:
            book.close()


def _shown(book: Any) -> list[Any]:
    """Return the sheets that are not hidden; all, if they all are."""
    sheets = book.worksheets
    return [one for one in sheets if one.sheet_state == "visible"] or sheets


def _damaged(path: Path, error: Exception) -> InputError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    return InputError(f"{path}: a damaged table: {reason}")


def _workbook_rows(path: Path, blank_lines: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    names: dict[int, str] = {}
    twice: dict[str, Any] = {}
    blank: list[int] = []
    with _workbook(path) as book:
        sheets = _shown(book)
        if not sheets:
            return
        # Some programs write a wrong size, which would cut rows.
        sheets[0].reset_dimensions()
        for number, cells in enumerate(_values(path, sheets[0]), 1):
            texts = [_as_text(cell) for cell in cells]
            if not any(texts):
                blank += [number] if names else []
                continue
            if not names:
                # White space alone is no head of a table.
                names = _named(texts) if any(map(str.strip, texts)) else {}
                counts = Counter(names.values())
                twice = {name: TWICE for name, count in counts.items() if count > 1}
                continue
            if blank_lines:
                yield from ((line, dict.fromkeys(names.values(), "")) for line in blank)
            # Blank rows at the end are not rows.
            blank.clear()
            there = dict(enumerate(texts))
            if any(text for place, text in there.items() if place not in names):
                say_once(
                    ("unnamed", path),
                    f"warning: {path}, line {number}: a cell of a column without a name; such "
                    "columns are not read",
                )
            row = {name: there.get(place, "") for place, name in names.items()}
            yield number, {**row, **twice}


def _named(texts: Sequence[str]) -> dict[int, str]:
    """Return the names of columns by their places; a single one between them may have none.

    That is an index, as pandas writes it. Others without a name are notes beside the table.
    """
    names = {place: text.strip() for place, text in enumerate(texts) if text.strip()}
    unnamed = [place for place in range(max(names)) if place not in names]
    return dict(sorted({**names, unnamed[0]: ""}.items())) if len(unnamed) == 1 else names


def _values(path: Path, sheet: Any) -> Iterator[Sequence[Any]]:
    rows = sheet.iter_rows(values_only=True)
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                row = next(rows, None)
        except Exception as error:
            raise _damaged(path, error) from None
        if row is None:
            return
        yield row


def _as_text(cell: Any) -> str:
    """Return a cell as a csv of its sheet has it."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(cell).upper()
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1 << 53:
        return str(int(cell))
    if isinstance(cell, datetime.datetime):
        midnight = cell.time() == datetime.time()
        return cell.date().isoformat() if midnight else cell.isoformat(" ")
    # Line ends of a cell are written as an escape by some programs.
    return str(cell).replace("_x000D_\n", "\n").replace("_x000D_", "\r")


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise InputError(f"{path} is read by pyarrow: {_INSTALL}") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            twice = {name: TWICE for name, count in Counter(names).items() if count > 1}
            for batch in file.iter_batches(batch_size=ROWS):
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    row = {n: _plain(v) for n, v in zip(names, values, strict=True)}
                    yield number, {**row, **twice}
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from None


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, bytes):
        return value.decode()
    return str(value)
