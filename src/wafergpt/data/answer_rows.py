"""Questions on contexts, with the spans that answer them: tables, JSON Lines, and SQuAD's JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from wafergpt.data.cells import cell_text, described, is_missing
from wafergpt.data.file_formats import FileFormat, column, counted, rows, whole
from wafergpt.data.json_rows import json_object
from wafergpt.data.labelled_rows import held
from wafergpt.data.opening import NotTextError
from wafergpt.errors import InputError
from wafergpt.files import short
from wafergpt.logs import say

T = TypeVar("T")

_MARKUP = re.compile(r"</?[a-zA-Z][^<>]*>|&(?:[a-zA-Z]+|#\d+);")

_PRINTED = re.compile(r"\{'(?:text|answer_start)': ")


class Span(NamedTuple):
    """An answer: its text, and the places in the context of its first character and behind it."""

    text: str
    start: int
    end: int


class Columns(NamedTuple):
    """Names of columns."""

    question: str = "question"
    context: str = "context"
    answer: str = "answer"
    start: str = "answer_start"


@dataclass(frozen=True)
class Questions:
    """Questions with their contexts and answers, in the order of the file.

    Attributes:
        questions: none blank.
        contexts: none blank.
        answers: of each question; none where the context has no answer.
        path: the file.
        notes: notes for people, a line each.
    """

    questions: list[str]
    contexts: list[str]
    answers: list[tuple[Span, ...]]
    path: Path | None = field(default=None, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Each question with its context."""
        return list(zip(self.questions, self.contexts, strict=True))

    @property
    def texts(self) -> list[str]:
        """Each question with its context, as one text."""
        return ["\n".join(pair) for pair in self.pairs]

    @property
    def labels(self) -> list[str]:
        """The answers of each question, as JSON."""
        return [json.dumps(spans, ensure_ascii=False) for spans in self.answers]

    def place(self, row: int) -> str:
        """Return the place of a row, for people."""
        return f"{self.path}: {short(self.texts[row])}"

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Questions:
        """Return the questions at these places."""
        return replace(
            self,
            questions=[self.questions[i] for i in rows],
            contexts=[self.contexts[i] for i in rows],
            answers=[self.answers[i] for i in rows],
        )


class _Row(NamedTuple):
    """A question of a file: where it is, for people, and its answers with their starts if known."""

    place: str
    question: str
    context: str
    answers: tuple[tuple[str, int | None], ...]
    line: int
    columns: Mapping[str, Any]


class AnswerQuery(NamedTuple):
    """A question to answer: its line, all of its columns, itself, and its context."""

    line: int
    columns: Mapping[str, Any]
    question: str
    context: str


def read_questions(path: str | Path, names: Columns) -> Questions:
    """Read questions with their contexts and answers.

    A row of a table or of JSON Lines has a question, a context and an answer, which may have a
    start; an empty answer says that the context has none. ``answers`` with lists ``text`` and
    ``answer_start`` are read too, and SQuAD's own JSON, v1.1 and v2. Rows of one question on one
    context are one question with several answers. Questions whose answer is not in the context are
    skipped, and what was not as it should be is counted in the notes.

    Args:
        path: a jsonl, csv or tsv file, plain or compressed, or one of SQuAD's.
        names: of the columns.

    Raises:
        InputError: if there is no such file or column, or no question can be learned from.
    """
    path = Path(path)
    kept: dict[tuple[str, str], list[Span]] = {}
    faults: dict[str, list[str]] = {}
    total = 0
    for row in _rows(path, names, answered=True):
        total += 1
        spans, found = _spans(row)
        for fault in found:
            faults.setdefault(fault, []).append(row.place)
        if spans is not None:
            known = kept.setdefault((row.question, row.context), [])
            known += [span for span in spans if span not in known]
    notes = [
        f"{path}: {len(places):,} of {total:,} rows {what} (first: {places[0]})"
        for what, places in faults.items()
    ]
    if not kept:
        why = f"{notes[0]}: nothing is left; an answer is a piece of its context" if notes else ""
        raise InputError(why or f"{path} has no rows")
    skipped = sum(len(places) for what, places in faults.items() if "skipped" in what)
    if (again := total - skipped - len(kept)) > 0:
        notes.append(
            f"{path}: {again:,} of {total:,} rows repeat a question on its context: their answers "
            "are alternatives"
        )
    answers = [tuple(spans) for spans in kept.values()]
    without = sum(not spans for spans in answers)
    said = f", {without:,} without an answer" if without else ""
    say(counted(path, total, "questions", names=names[:3]) + said)
    questions, contexts = ([key[place] for key in kept] for place in (0, 1))
    return Questions(questions, contexts, answers, path, tuple(notes))


def stream_asked(
    path: Path, names: Columns, file_format: FileFormat | None = None
) -> Iterator[AnswerQuery]:
    """Yield questions and their contexts, whose answers need not be there.

    A blank line between the rows of a csv or tsv file is a blank question, so that answers stay
    aligned with the file.

    Args:
        path: as in ``read_questions``.
        names: of the columns.
        file_format: of the file; detected if omitted.

    Raises:
        InputError: if there is no such file or column, or no row.
    """
    count = 0
    for row in _rows(path, names, answered=False, file_format=file_format):
        count += 1
        yield AnswerQuery(row.line, row.columns, row.question, row.context)
    if not count:
        raise InputError(f"{path} has no rows")
    say(counted(path, count, "questions", file_format, names[:2]))


def pair_of(value: object, names: Columns) -> tuple[Any, Any] | None:
    """Return a question and its context as a program gives them; None if there is nothing.

    Args:
        value: a mapping, a pair, or JSON of a mapping.
        names: of the mapping's keys.

    Raises:
        InputError: if it is none of these, with a message that continues after its place.
    """
    wanted = f'{{"{names.question}": TEXT, "{names.context}": TEXT}} is wanted'
    if isinstance(value, str) and value.strip():
        row = json_object(value)
        if row is None:
            raise InputError(f"is a text alone: {wanted}")
        value = row
    if is_missing(value) or isinstance(value, str):
        return None
    if isinstance(value, Mapping):
        if missing := [name for name in names[:2] if name not in value]:
            raise InputError(f"has no {missing[0]}: {wanted}")
        return value[names.question], value[names.context]
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise InputError(f"is {described(value)}: {wanted}")
    return value[0], value[1]


def _spans(row: _Row) -> tuple[list[Span] | None, set[str]]:
    """Return the answers of a row, None if it cannot be used, and what is said of it."""
    for what, text in (("question", row.question), ("context", row.context)):
        if not text.strip():
            return None, {f"have no {what} and are skipped"}
    faults = {"have HTML in the context, which is read as it is"}
    if not _MARKUP.search(row.context):
        faults.clear()
    spans = []
    for text, start in row.answers:
        span, fault = _placed(text, start, row.context)
        if span is not None:
            spans.append(span)
            faults |= {fault} - {""}
    if row.answers and not spans:
        return None, faults | {"have an answer that is not in the context, and are skipped"}
    return spans, faults


def _placed(text: str, start: int | None, context: str) -> tuple[Span | None, str]:
    """Find an answer in its context.

    Returns:
        The span, None if there is none, and what is said of the row.
    """
    found = [m.start() for m in re.finditer(f"(?={re.escape(text)})", context)]
    if found:
        place = found[0] if start is None else min(found, key=lambda other: abs(other - start))
        elsewhere = "have a start that is not their answer's: the nearest one is taken"
        wrong = start is not None and place != start
        return Span(text, place, place + len(text)), elsewhere if wrong else ""
    pattern = r"\s+".join(map(re.escape, text.split()))
    matches = list(re.finditer(pattern, context, re.IGNORECASE))
    if not matches:
        return None, ""
    best = min(matches, key=lambda match: abs(match.start() - (start or 0)))
    said = "have an answer in other case or spaces than the context, whose own are taken"
    return Span(best.group(), best.start(), best.end()), said


def _rows(
    path: Path, names: Columns, answered: bool, file_format: FileFormat | None = None
) -> Iterator[_Row]:
    wanted = names[:3] if answered else names[:2]
    numbered = rows(path, blank_lines=not answered, file_format=file_format, names=wanted)
    for number, row in held(path, numbered, wanted):
        if names.question not in row and isinstance(row.get("data"), list):
            yield from _of_squad(row["data"], path)
        elif names.question not in row and isinstance(row.get("paragraphs"), list):
            yield from _of_squad([row], path)
        else:
            yield _of_table(row, names, path, number, answered)


def _of_table(row: dict[str, Any], names: Columns, path: Path, number: int, answered: bool) -> _Row:
    question, context = (
        cell_text(column(row, name, path, number, f"task.{key}=COLUMN"), name, path, number)
        for key, name in (("question", names.question), ("context", names.context))
    )
    answers: tuple[tuple[str, int | None], ...] = ()
    if answered:
        other = "answers" if names.answer not in row and "answers" in row else names.answer
        value = column(row, other, path, number, "task.answer=COLUMN")
        if not isinstance(value, Mapping | list):
            if isinstance(value, int | float) and not isinstance(value, bool):
                value = None if is_missing(value) else str(value)
            text = cell_text(value, other, path, number)
            if _PRINTED.match(text):
                raise InputError(
                    f"{path}, line {number}: column '{other}' has a printed object of Python, "
                    f"{short(text)}: write the rows as jsonl"
                )
            value = [{"text": text, "answer_start": row.get(names.start)}]
        answers = _listed(value, path, f"line {number}")
    return _Row(f"line {number}", question, context, answers, number, row)


def _of_squad(articles: Sequence[Any], path: Path) -> Iterator[_Row]:
    count = 0
    for article in articles:
        for paragraph in _member(article, "paragraphs", list, path, count):
            context = _of(paragraph, "context", path, count)
            for asked in _member(paragraph, "qas", list, path, count):
                count += 1
                place = f"question {count}"
                question = _of(asked, "question", path, count)
                found = [] if asked.get("is_impossible") else asked.get("answers") or []
                own = {"question": question, "context": context}
                yield _Row(place, question, context, _listed(found, path, place), count, own)


def _of(value: Any, key: str, path: Path, count: int) -> str:
    text = _member(value, key, str, path, count)
    try:
        return whole(text, path, count)
    except NotTextError:
        raise NotTextError(
            f"{path}: a lone surrogate, which is no character, after question {count}"
        ) from None


def _member(value: Any, key: str, kind: type[T], path: Path, count: int) -> T:
    found = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(found, kind):
        raise InputError(f"{path}: no '{key}' after question {count}, where SQuAD's JSON has one")
    return found


def _listed(value: Any, path: Path, place: str) -> tuple[tuple[str, int | None], ...]:
    """Return answers as SQuAD has them, as ``datasets`` has them, or as a list of texts."""
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
        texts = [texts] if isinstance(texts, str) else texts
        starts = [starts] if not isinstance(starts, list) else starts
        if isinstance(texts, list) and texts and len(starts) not in (len(texts), 1):
            raise InputError(f"{path}, {place}: {len(texts):,} answers, but {len(starts):,} starts")
        value = [
            {"text": text, "answer_start": starts[n] if n < len(starts) else None}
            for n, text in enumerate(texts if isinstance(texts, list) else [])
        ]
    if not isinstance(value, list):
        raise InputError(f"{path}, {place}: the answers are {described(value)}")
    found: list[tuple[str, int | None]] = []
    for one in value:
        text = one.get("text") if isinstance(one, Mapping) else one
        if not isinstance(text, str):
            raise InputError(f"{path}, {place}: an answer is {short(one)}, not a text")
        start = _start(one.get("answer_start"), path, place) if isinstance(one, Mapping) else None
        if start is not None:
            start += len(text) - len(text.lstrip())
        if text.strip() and (text.strip(), start) not in found:
            found.append((text.strip(), start))
    return tuple(found)


def _start(value: Any, path: Path, place: str) -> int | None:
    """Return a start; below 0 stands for none."""
    if is_missing(value) or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not number.is_integer():
        raise InputError(f"{path}, {place}: answer_start is {short(value)}, not a whole number")
    return int(number) if number >= 0 else None
