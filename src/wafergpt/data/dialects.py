r"""Tables as csv and tsv files: the dialect is detected from the whole file.

A csv or tsv file does not say what separates its columns, nor whether a quote at the start of a
field encloses it or is an ordinary character. The dialects below are tried in this order. A file is
a table in a dialect if every row has the columns of the header, and every opening quote is closed
before a delimiter or a line end:

1. quotes enclose fields, and stand twice inside them (RFC 4180: spreadsheets, Python, pandas);
2. as the first, with ``\"`` inside fields (MySQL, pandas with an escapechar);
3. quotes mean nothing (most .tsv files: GLUE, Hive, ``cut``);
4. as the first, with spaces before the opening quotes;
5. as the third, with a backslash before delimiters inside fields.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice

from wafergpt.data import opening

Lines = Iterator[tuple[int, str]]

DELIMITERS = ",;\t"

HEAD_LINES = 50
HEAD_CHARACTERS = 1 << 20
"""Characters of a file that are read to detect the delimiter."""

LONG_ROW = 20
"""A row of more lines than this is mentioned in the notes."""

_SEPARATOR = re.compile(r'"?sep=([,;:|^~\t])"?[\r\n]*')
"""The first line that tells Excel what separates the columns."""

_TOO_LARGE = "field limit"  # in an error message of Python's csv


class Fault(Exception):
    """A line that is not a row of the table."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line, self.reason = line, reason


class AmbiguousFault(Fault):
    """A table that can be read in two ways, neither of which is more likely."""


@dataclass(frozen=True)
class Dialect:
    """How rows are written.

    Attributes:
        delimiter: between columns.
        quotes: whether they enclose fields.
        spaces: whether spaces may stand before the quote that opens.
        escapes: whether a backslash goes before quotes and delimiters inside fields.
    """

    delimiter: str
    quotes: bool = True
    spaces: bool = False
    escapes: bool = False

    def read(self, lines: Iterator[str]) -> Iterator[list[str]]:
        """Yield the fields of each row; raise csv.Error on a quote that is not closed properly."""
        csv.field_size_limit(opening.LINE_CHARACTERS)
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quoting=csv.QUOTE_MINIMAL if self.quotes else csv.QUOTE_NONE,
            skipinitialspace=self.spaces,
            escapechar="\\" if self.escapes else None,
            strict=True,
        )


@dataclass(frozen=True)
class Row:
    """The fields of a row, and its first and last line."""

    first: int
    last: int
    values: list[str]


class Table:
    """The rows of a table, the header first.

    Args:
        lines: of the file.
        dialect: the dialect to read them in.

    Attributes:
        line: the text of the last line that was read.
    """

    def __init__(self, lines: Lines, dialect: Dialect) -> None:
        self._lines, self._dialect = lines, dialect
        self._first = self._last = 0
        self.line = ""

    def __iter__(self) -> Iterator[Row]:
        """Yield the header and all rows, each with the same columns; a blank line has no values.

        Raises:
            Fault: on a line that is not a row.
        """
        rows = self._dialect.read(self._fed())
        columns = 0
        while True:
            self._first = 0
            try:
                values = next(rows, None)
            except csv.Error as error:
                hint = ": is the quote that opens it closed?" if _TOO_LARGE in str(error) else ""
                raise Fault(self._first, f"{error}{hint}") from None
            if values is None:
                return
            # In a table of one column, spaces are a value.
            few = columns != 1 and len(values) < max(columns, 2)
            if not values or (few and not self.line.strip()):
                values = []
            elif not columns:
                columns = len(values)
            elif len(values) != columns:
                self._require_empty(values, columns)
                del values[columns:]
            if values or columns:
                yield Row(self._first, self._last, values)

    def _fed(self) -> Iterator[str]:
        stray = _stray_escape(self._dialect.delimiter) if self._dialect.escapes else None
        for number, line in self._lines:
            if number == 1 and _SEPARATOR.fullmatch(line):
                continue
            self._first, self._last, self.line = self._first or number, number, line
            if stray and (found := stray.match(line)):
                raise Fault(number, f"is '{found[1]}' an escape? a backslash is written twice")
            yield line

    def _require_empty(self, values: list[str], columns: int) -> None:
        """Accept a row with more delimiters than the header if nothing stands between them."""
        if not "".join(values[columns:]).strip() and len(values) > columns:
            return
        there = f"{len(values)} columns" if len(values) != 1 else "1 column"
        reason = f"{there}, but the header has {columns}"
        if self._last > self._first:
            reason += f" (a quoted field goes on from here to line {self._last})"
        elif len(values) > columns and self._dialect.quotes:
            reason += " (a text with a delimiter in it must be quoted)"
        raise Fault(self._first, reason)


@dataclass(frozen=True)
class Format:
    """The dialect of a table, and notes for people."""

    dialect: Dialect
    notes: tuple[str, ...] = ()


@dataclass
class _Survey:
    """The result of reading a file once in one dialect."""

    fault: Fault | None = None
    trusted: int = 0
    """Lines up to the fault; none if quotes mean nothing, and the line at fault has some."""
    quoted: bool = False
    """Whether the header's first name stands in quotes."""
    bare: bool = False
    """Whether there are quotes inside unquoted fields, which a writer that quotes never makes."""
    spaced: bool = False
    """Whether quoted fields begin with spaces."""
    columns: int = 0
    longest: int = 1
    first: int = 0
    """Lines of the longest row, and where it begins."""


def detect(
    open_lines: Callable[[], Lines], preferred: str, max_characters: float = math.inf
) -> Format:
    """Detect the dialect of a table from the whole file.

    Args:
        open_lines: opens the file and yields its lines; called again for each reading.
        preferred: the delimiter that the file's name stands for; empty if it stands for none.
        max_characters: how many are read, a limit for files that unpack to too much.

    Raises:
        Fault: if it is not a table in any dialect, or is two different ones.
    """
    faults: list[tuple[int, Fault]] = []
    for delimiter in _delimiters(_head(open_lines()), preferred):
        read = partial(_survey, open_lines, max_characters)
        ways = [
            Dialect(delimiter),
            Dialect(delimiter, escapes=True),
            Dialect(delimiter, quotes=False),
            Dialect(delimiter, spaces=True),
            Dialect(delimiter, quotes=False, escapes=True),
        ]
        for dialect in ways:
            found = read(dialect)
            if found.fault is None:
                chosen, ambiguous = _settle(dialect, found, read)
                return Format(chosen, _notes(chosen, found, preferred, ambiguous))
            if found.columns == 1 and _TOO_LARGE in found.fault.reason:
                # Any lines are a table of one column.
                raise found.fault
            faults.append((found.trusted, _explained(found.fault, dialect, open_lines)))
    # The dialect that read furthest is the most likely one.
    raise max(faults, key=lambda fault: fault[0])[1]


def _settle(
    dialect: Dialect,
    found: _Survey,
    read: Callable[[Dialect], _Survey],
) -> tuple[Dialect, bool]:
    """Return the dialect of a table with quotes, and whether another one fits too.

    Raises:
        AmbiguousFault: if neither is more likely.
    """
    if not dialect.quotes or dialect.spaces:
        return dialect, False
    spaces = Dialect(dialect.delimiter, spaces=True)
    if found.spaced and not found.bare and read(spaces).fault is None:
        return spaces, False
    plain = Dialect(dialect.delimiter, quotes=False)
    if found.longest == 1 or read(plain).fault is not None:
        return dialect, False
    # The lines of a quoted field look like rows.
    if found.bare:
        return plain, False
    if found.quoted or dialect.delimiter != "\t" or found.columns == 1:
        return dialect, True
    line, last = found.first, found.first + found.longest - 1
    raise AmbiguousFault(
        line,
        f"does the quote here open a field that ends in line {last}, or is it part of the text? "
        "put quotes around every field, the names too; if it is part of the text: "
        """sed 's/"/""/g; s/[^\\t]*/"&"/g' FILE > NEW""",
    )


def _survey(open_lines: Callable[[], Lines], max_characters: float, dialect: Dialect) -> _Survey:
    found = _Survey()
    enough = _Enough(open_lines(), max_characters)
    table = Table(iter(enough), dialect)
    whole, spaced = _patterns(dialect.delimiter, dialect.escapes)
    try:
        for row in table:
            if not found.columns:
                found.columns = len(row.values)
                found.quoted = table.line.startswith('"')
            if row.last > row.first:
                if row.last - row.first >= found.longest:
                    found.longest, found.first = row.last - row.first + 1, row.first
            elif '"' in table.line and not (found.bare and found.spaced):
                if spaced.fullmatch(table.line):
                    found.spaced |= not whole.fullmatch(table.line)
                else:
                    found.bare = True
    except Fault as fault:
        if not enough.reached:
            found.fault = fault
            found.trusted = fault.line if dialect.quotes or '"' not in table.line else 0
    return found


class _Enough:
    """Lines up to the point where the dialect is clear."""

    def __init__(self, lines: Lines, max_characters: float) -> None:
        self._lines, self._max_characters = lines, max_characters
        self.reached = False

    def __iter__(self) -> Lines:
        left = self._max_characters
        for number, line in self._lines:
            yield number, line
            left -= len(line)
            if left < 0:
                self.reached = True
                return


def _head(lines: Lines) -> list[tuple[int, str]]:
    head, size = [], 0
    for number, line in islice(lines, HEAD_LINES):
        head.append((number, line))
        size += len(line)
        if size > HEAD_CHARACTERS:
            break
    return head


def _delimiters(head: list[tuple[int, str]], preferred: str) -> list[str]:
    """Return the delimiters that cut the first two rows into equally many columns, at least two."""
    if head and (given := _SEPARATOR.fullmatch(head[0][1])):
        return [given[1]]
    order = sorted(DELIMITERS, key=lambda delimiter: delimiter != preferred)
    fitting = []
    for delimiter in order:
        for quotes in (True, False):
            try:
                table = Table(iter(head), Dialect(delimiter, quotes))
                rows = list(islice((row.values for row in table if row.values), 2))
            except Fault:
                continue
            if rows and len(rows[0]) > 1 and delimiter not in fitting:
                fitting.append(delimiter)
    return fitting or [preferred or ","]


def _explained(fault: Fault, dialect: Dialect, open_lines: Callable[[], Lines]) -> Fault:
    """Name the place of the opening quote that is never closed, or closed in the wrong place."""
    if "expected after" not in fault.reason and "end of data" not in fault.reason:
        return fault
    opens, closes, rest = _open_quote(open_lines(), fault.line, dialect)
    if closes is None:
        reason = "a quote opens a field here and is never closed"
    else:
        where = "here" if closes == opens else f"in line {closes}"
        reason = f"a quote opens a field here and closes it {where}, but {rest[:20]!r} follows"
    return Fault(opens, f"{reason}; write quotes inside a quoted field twice")


def _open_quote(lines: Lines, first: int, dialect: Dialect) -> tuple[int, int | None, str]:
    """Return where the quote that breaks a row opens and closes, and the text after it."""
    spaces, delimiter = " *" if dialect.spaces else "", re.escape(dialect.delimiter)
    unquoted = re.compile(rf'{spaces}(?:(")|[^{delimiter}]*+)')
    quoted = re.compile(r'(?:[^"\\]|\\.|"")*+' if dialect.escapes else r'(?:[^"]|"")*+', re.DOTALL)
    opened = None
    for number, line in lines:
        if number < first:
            continue
        place = 0
        while place < len(line):
            if opened is None:
                found = unquoted.match(line, place)
                assert found is not None
                place = found.end()
                if found[1]:
                    opened = number
                else:
                    place += 1
                continue
            closing = quoted.match(line, place)
            assert closing is not None
            place = closing.end() + 1
            if place > len(line):
                break
            if line[place : place + 1] not in (dialect.delimiter, "\r", "\n", ""):
                return opened, number, line[place:].rstrip("\r\n")
            opened, place = None, place + 1
    return opened or first, None, ""


@lru_cache
def _patterns(delimiter: str, escapes: bool) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return two patterns of lines of quoted and plain fields; one allows spaces before quotes."""
    patterns = []
    delimiter = re.escape(delimiter)
    inner = r'[^"\\]|\\.' if escapes else r'[^"]|""'
    for spaces in ("", " *+"):
        field = rf'(?:{spaces}"(?:{inner})*+"|[^"\r\n{delimiter}]*+)'
        patterns.append(re.compile(rf"{field}(?:{delimiter}{field})*+[\r\n]*"))
    return patterns[0], patterns[1]


def _stray_escape(delimiter: str) -> re.Pattern[str]:
    delimiter = re.escape(delimiter)
    return re.compile(rf'(?:[^\\]++|\\["\\\r\n{delimiter}])*+(\\.?)', re.DOTALL)


def _notes(dialect: Dialect, found: _Survey, preferred: str, ambiguous: bool) -> tuple[str, ...]:
    notes = []
    if dialect.delimiter != preferred:
        name = "tabs" if dialect.delimiter == "\t" else f"'{dialect.delimiter}'"
        notes.append(f"separated by {name}")
    if not dialect.quotes and dialect.escapes:
        notes.append("backslashes are escapes")
    elif not dialect.quotes:
        notes.append("quotes are part of the text")
    elif found.longest > (1 if ambiguous else LONG_ROW):
        notes.append(f"the row from line {found.first} on has {found.longest:,} lines")
    return tuple(notes)
