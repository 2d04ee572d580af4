"""Text files as people have them: txt, jsonl, csv, tsv, plain or compressed, read line by line."""

from __future__ import annotations

import csv
import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, cast

from wafergpt.errors import InputError, nearest
from wafergpt.files import short

Errors = Literal["strict", "replace"]

LINE_BYTES = 64 << 20
"""The longest line that is read; what is longer is no line of text."""

KINDS = {".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
COMPRESSED = {".gz", ".xz"}


def kind(path: Path) -> str | None:
    """Return ``txt``, ``jsonl``, ``csv`` or ``tsv`` from a file's name, or None."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return KINDS.get(suffixes[-1]) if suffixes else None


def require_kind(path: Path) -> str:
    """Return the kind of a file that must be readable.

    Raises:
        InputError: if there is no such file, or its kind is not known.
    """
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    found = kind(path)
    if found is None:
        raise InputError(f"{path}: what is it? known are {', '.join(KINDS)}, each also .gz or .xz")
    return found


def lines(path: Path, errors: Errors = "strict") -> Iterator[tuple[int, str]]:
    """Yield the number (from 1) and text of each line, its end included, in bounded memory.

    Raises:
        InputError: on invalid UTF-8 (unless replaced), a broken archive, or an endless line.
    """
    number = 0
    try:
        with _open(path) as file:
            while raw := file.readline(LINE_BYTES + 1):
                number += 1
                if len(raw) > LINE_BYTES:
                    raise InputError(f"{path}, line {number}: longer than {LINE_BYTES >> 20} MiB")
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                yield number, raw.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {number}: not UTF-8 (byte 0x{error.object[error.start]:02x}); "
            "convert the file, or read on with --errors replace"
        ) from None
    except (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError, MemoryError) as error:
        # An .xz may ask for a dictionary of gigabytes.
        raise InputError(f"{path}: a broken archive after line {number}: {error}") from None


def _open(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix.lower() == ".xz":
        return lzma.open(path, "rb")
    return path.open("rb")


def rows(
    path: Path, errors: Errors = "strict", blank_lines: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line number and the named columns of each row of a jsonl, csv or tsv file.

    With ``blank_lines`` a blank line between rows of csv and tsv is a row of empty columns.

    Raises:
        InputError: on a line that is no row.
    """
    found = require_kind(path)
    if found == "jsonl":
        yield from _json_rows(path, errors)
    elif found in {"csv", "tsv"}:
        yield from _csv_rows(path, errors, "," if found == "csv" else "\t", blank_lines)
    else:
        raise InputError(f"{path} has no columns: rows come as jsonl, csv or tsv")


def _json_rows(path: Path, errors: Errors) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in lines(path, errors):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = "too deep" if isinstance(error, RecursionError) else error
            raise InputError(f"{path}, line {number}: not JSON: {reason}") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: not a JSON object with named columns")
        yield number, row


def _csv_rows(
    path: Path, errors: Errors, delimiter: str, blank_lines: bool
) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(LINE_BYTES)
    reader = csv.reader((line for _, line in lines(path, errors)), delimiter=delimiter)
    try:
        header = next(reader, None)
        blank = 0
        for values in reader:
            if header is None:
                continue
            if not values or (len(values) < len(header) and not "".join(values).strip()):
                blank += 1
                continue
            # Blank lines at the end are no rows.
            for back in range(blank if blank_lines else 0, 0, -1):
                yield reader.line_num - back, dict.fromkeys(header, "")
            blank = 0
            if len(values) != len(header):
                raise InputError(
                    f"{path}, line {reader.line_num}: {len(values)} columns, "
                    f"but the header has {len(header)}"
                )
            yield reader.line_num, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}") from None


def whole(text: str, path: Path, number: int) -> str:
    """Return a text that has bytes: a lone surrogate, which JSON can escape, has none.

    Raises:
        InputError: if there is one.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{path}, line {number}: a lone surrogate is no character; "
            "read on with --errors replace"
        ) from None
    return text


def column(row: dict[str, Any], name: str, path: Path, number: int) -> Any:
    """Return the named column of a row.

    Raises:
        InputError: if there is none, with the names that there are.
    """
    if name not in row:
        there = ", ".join(map(short, list(row)[:10]))
        raise InputError(
            f"{path}, line {number}: no column '{name}'{nearest(name, row)} (there are {there})"
        )
    return row[name]
