"""Rows of retrieval: pairs of a query and its text, and queries with candidates to be ranked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from numpy import int64
from numpy.typing import NDArray

from wafergpt.data.cells import cell_text, is_missing
from wafergpt.data.file_formats import FileFormat, column, counted, rows
from wafergpt.data.labelled_rows import held
from wafergpt.data.labels import BOOLEANS, with_point
from wafergpt.errors import InputError
from wafergpt.files import short
from wafergpt.logs import say

OPTIONAL = ("negative",)
"""Columns of negatives that need not be there: these are the recipe's own."""


@dataclass(frozen=True)
class QueryPairs:
    """Queries with a right text each, in the order of the file.

    Attributes:
        texts: the queries, none blank. A query may have several rows.
        positives: the text that is right for each, none blank.
        negatives: texts that are wrong for each, if any are named.
        path: the file.
        notes: notes for people about the rows, a line each.
    """

    texts: list[str]
    positives: list[str]
    negatives: list[tuple[str, ...]]
    path: Path | None = field(default=None, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def labels(self) -> list[str]:
        """What is to be learned of each query, as one string."""
        both = zip(self.positives, self.negatives, strict=True)
        return [json.dumps([right, *wrong], ensure_ascii=False) for right, wrong in both]

    def place(self, row: int) -> str:
        """Return the place of a row, for people."""
        return f"{self.path}: {short(self.texts[row])}"

    def take(self, rows: Sequence[int] | NDArray[int64]) -> QueryPairs:
        """Return the rows at these places."""
        return replace(
            self,
            texts=[self.texts[i] for i in rows],
            positives=[self.positives[i] for i in rows],
            negatives=[self.negatives[i] for i in rows],
        )


def read_query_pairs(
    path: Path, query: str, positive: str, negatives: Sequence[str] = OPTIONAL
) -> QueryPairs:
    """Read queries and their texts from a jsonl, csv or tsv file, plain or compressed.

    Rows without a query or its text are skipped, and counted in the notes. So are negatives that
    are the right text of the same query in another row.

    Args:
        path: the file.
        query: the column of queries.
        positive: the column of right texts.
        negatives: columns of wrong ones; a cell may be empty, or in jsonl a list of texts.

    Raises:
        InputError: if there is no such file or column, no row with both texts, or a cell that holds
            no text.
    """
    if query == positive:
        raise InputError(f"task.query and task.positive are both {query}: a text finds itself")
    found: list[tuple[str, str, tuple[str, ...]]] = []
    blank: list[int] = []
    names = (query, positive, *negatives)
    for number, row in held(path, rows(path, names=(query, positive)), names):
        pair = [
            cell_text(column(row, name, path, number, f"task.{key}=COLUMN"), name, path, number)
            for key, name in (("query", query), ("positive", positive))
        ]
        if not all(text.strip() for text in pair):
            blank.append(number)
            continue
        wrong = [text for name in negatives for text in _negatives(row, name, path, number)]
        found.append((pair[0], pair[1], tuple(wrong)))
    if not found:
        raise InputError(f"{path} has no rows with a {query} and a {positive}")
    say(counted(path, len(found) + len(blank), names=(query, positive)))
    right: dict[str, set[str]] = {}
    for asked, answer, _ in found:
        right.setdefault(asked, set()).add(answer)
    kept = [tuple(text for text in wrong if text not in right[asked]) for asked, _, wrong in found]
    notes = []
    if blank:
        notes.append(
            f"{path}: {len(blank):,} of {len(found) + len(blank):,} rows lack a {query} or a "
            f"{positive} and are skipped (first: line {blank[0]})"
        )
    if contradicted := sum(len(wrong) for *_, wrong in found) - sum(map(len, kept)):
        notes.append(
            f"{path}: {contradicted:,} negatives are right for the same query and are skipped"
        )
    return QueryPairs([f[0] for f in found], [f[1] for f in found], kept, path, tuple(notes))


def _negatives(row: dict[str, Any], name: str, path: Path, number: int) -> list[str]:
    if name in OPTIONAL and name not in row:
        return []
    value = column(row, name, path, number, "task.negative=[COLUMN]")
    values = value if isinstance(value, list) else [value]
    texts = [cell_text(one, name, path, number) for one in values]
    return [text for text in texts if text.strip()]


class Candidate(NamedTuple):
    """A text that may answer a query.

    Attributes:
        query: what is asked.
        text: the candidate.
        group: candidates of one group are ranked together; the query if omitted.
    """

    query: str
    text: str
    group: str | None = None

    @property
    def blank(self) -> bool:
        """Whether there is no query or no text."""
        return not (self.query.strip() and self.text.strip())

    @property
    def list_key(self) -> str:
        """What the candidates of a list have in common: a group, or a query but for spaces."""
        return " ".join(self.query.split()) if self.group is None else self.group


@dataclass(frozen=True)
class RankedLists:
    """Queries, each with its candidates and how relevant they are.

    Attributes:
        candidates: of each query, in the order of the file.
        relevance: of each candidate, 0 or more.
        path: the file.
        notes: notes for people about the rows, a line each.
    """

    candidates: list[list[Candidate]]
    relevance: list[list[float]]
    path: Path | None = field(default=None, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def texts(self) -> list[str]:
        """The query of each list."""
        return [candidates[0].query for candidates in self.candidates]

    @property
    def labels(self) -> list[str]:
        """The candidates of each list and their relevance, as one string."""
        both = zip(self.candidates, self.relevance, strict=True)
        return [json.dumps([*map(list, some), known], ensure_ascii=False) for some, known in both]

    def place(self, row: int) -> str:
        """Return the place of a row, for people."""
        return f"{self.path}: {short(self.texts[row])}"

    def take(self, rows: Sequence[int] | NDArray[int64]) -> RankedLists:
        """Return the lists at these places."""
        return replace(
            self,
            candidates=[self.candidates[i] for i in rows],
            relevance=[self.relevance[i] for i in rows],
        )

    def usable(self) -> RankedLists:
        """Return the lists that something can be learned from, with notes on the others.

        Raises:
            InputError: if there is none.
        """
        single = [len(known) < 2 for known in self.relevance]
        equal = [len(set(known)) < 2 for known in self.relevance]
        kept = [place for place, no in enumerate(equal) if not no]
        alone, alike = sum(single), sum(equal) - sum(single)
        reasons = [
            f"{count:,} of {len(equal):,} queries {what}"
            for count, what in (
                (alone, "have one candidate"),
                (alike, "have candidates of equal relevance"),
            )
            if count
        ]
        if not kept:
            raise InputError(f"{self.path}: {' and '.join(reasons)}: nothing to rank")
        notes = [f"{self.path}: {reason} and are skipped" for reason in reasons]
        return replace(self.take(kept), notes=(*self.notes, *notes))


@dataclass(frozen=True)
class RankedColumns:
    """The columns of a file of candidates: query, candidate, relevance, and what groups them."""

    query: str
    text: str
    label: str
    group: str | None = None

    def __post_init__(self) -> None:
        if self.query == self.text:
            raise InputError(f"queries and candidates are both '{self.query}': a text ranks itself")

    def candidate(
        self, row: dict[str, Any], path: Path, number: int, option: str = "task.text=COLUMN"
    ) -> Candidate:
        """Return the candidate of a row; its texts may be blank.

        Args:
            row: the columns.
            path: the file.
            number: of its line.
            option: by which a user names the column of texts.
        """
        query, text = (
            cell_text(column(row, name, path, number, how), name, path, number)
            for name, how in ((self.query, "task.query=COLUMN"), (self.text, option))
        )
        candidate = Candidate(query, text)
        if self.group is None or candidate.blank:
            return candidate
        group = group_of(column(row, self.group, path, number, "task.group=COLUMN"))
        if group is None:
            raise InputError(f"{path}, line {number}: an empty group in column '{self.group}'")
        return candidate._replace(group=group)


def group_of(value: object) -> str | None:
    """Return the group that a cell stands for, None if it is empty."""
    return None if is_missing(value) or not str(value).strip() else str(value).strip()


def read_ranked_lists(path: Path, columns: RankedColumns) -> RankedLists:
    """Read candidates from a jsonl, csv or tsv file, plain or compressed; a row is one of them.

    Rows without a query or a text are skipped, and counted in the notes. The rows of a list need
    not stand together.

    Args:
        path: the file.
        columns: of it.

    Raises:
        InputError: if there is no such file or column, no row with both texts, or a label that is
            no number of 0 or more.
    """
    lists: dict[str, tuple[list[Candidate], list[float]]] = {}
    blank: list[int] = []
    count = 0
    names = (columns.query, columns.text, columns.label)
    for number, row in held(path, rows(path, names=names), names):
        count += 1
        candidate = columns.candidate(row, path, number)
        value = column(row, columns.label, path, number, "task.label=COLUMN")
        if candidate.blank:
            blank.append(number)
            continue
        candidates, known = lists.setdefault(candidate.list_key, ([], []))
        candidates.append(candidate)
        known.append(_relevance(value, columns.label, path, number))
    if not lists:
        raise InputError(f"{path} has no rows with a {columns.query} and a {columns.text}")
    say(counted(path, count, names=names))
    notes: tuple[str, ...] = ()
    if blank:
        notes = (
            f"{path}: {len(blank):,} of {count:,} rows lack a {columns.query} or a {columns.text} "
            f"and are skipped (first: line {blank[0]})",
        )
    found = lists.values()
    return RankedLists([c for c, _ in found], [k for _, k in found], path, notes)


def stream_candidates(
    path: Path, columns: RankedColumns, file_format: FileFormat | None = None
) -> Iterator[tuple[int, dict[str, Any], Candidate]]:
    """Yield the line, all columns and the candidate of each row; those of blank rows are blank.

    Args:
        path: the file.
        columns: of it.
        file_format: of it; detected if omitted.

    Raises:
        InputError: if there is no such file or column, or no row.
    """
    names, count = (columns.query, columns.text), 0
    numbered = rows(path, blank_lines=True, file_format=file_format, names=names)
    for number, row in held(path, numbered, names):
        count += 1
        yield number, row, columns.candidate(row, path, number, "--column COLUMN")
    if not count:
        raise InputError(f"{path} has no rows")
    say(counted(path, count, file_format=file_format, names=names))


def _relevance(value: object, name: str, path: Path, number: int) -> float:
    where = f"{path}, line {number}: column '{name}'"
    if is_missing(value) or not str(value).strip():
        raise InputError(f"{where} has no label: the relevance of a candidate is 0 or more")
    text = str(value).strip().lower()
    try:
        found = float(BOOLEANS.get(text, with_point(text)))
    except (ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise InputError(f"{where} has the label {short(value)}, not a number")
    if found < 0:
        raise InputError(f"{where} has the label {short(value)}: a relevance is 0 or more")
    return found
