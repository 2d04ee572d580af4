"""Tables as they are written: csv, tsv and jsonl that any reader takes, ours too."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from wafergpt import files
from wafergpt.errors import InputError

TableKind = Literal["csv", "tsv", "jsonl"]

_DELIMITERS = {"csv": ",", "tsv": "\t"}


def table_kind(path: Path) -> TableKind:
    """Return the kind of table that the name of ``--out`` stands for.

    Raises:
        InputError: if it stands for none.
    """
    for kind in get_args(TableKind):
        if path.suffix.lower() == f".{kind}":
            found: TableKind = kind
            return found
    raise InputError(f"--out {path}: its name must end in .csv, .tsv or .jsonl")


def header_line(kind: TableKind, names: Iterable[str]) -> str:
    """Return the first line of a table; "" for jsonl, which has none."""
    # Quoted names say that quotes in a .tsv enclose fields.
    return "" if kind == "jsonl" else _fields(kind, names, csv.QUOTE_ALL if kind == "tsv" else 0)


def row_line(kind: TableKind, names: Iterable[str], row: Mapping[str, Any]) -> str:
    """Return a row of a table with its line end.

    In jsonl a row has its own columns, in its own order. In csv and tsv a missing value is empty,
    and what is no text is written as JSON.

    Args:
        kind: of the table.
        names: the columns of csv and tsv, as in the header.
        row: values by column.
    """
    if kind == "jsonl":
        return _json(row) + "\n"
    return _fields(kind, (_cell(row.get(name)) for name in names))


def _fields(kind: str, values: Iterable[str], quoting: int = csv.QUOTE_MINIMAL) -> str:
    buffer = io.StringIO()
    # With this end of line, a lone \r is quoted too.
    csv.writer(
        buffer,
        delimiter=_DELIMITERS[kind],
        quoting=quoting,  # type: ignore[arg-type]
        lineterminator="\r\n",
    ).writerow(values)
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return _json(value)


def _json(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        # JSON has neither NaN nor infinities.
        return _json(files.finite(value))
    try:
        text.encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair, which JSON can have as an escape alone.
        return json.dumps(value)
    return text
