"""Sentences whose words are tagged: CoNLL files of any columns, and JSON Lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wafergpt.data.file_formats import (
    FileFormat,
    column,
    kind,
    require_file,
    rows,
    suffix,
    whole,
)
from wafergpt.data.json_rows import json_object
from wafergpt.data.labelled_rows import held
from wafergpt.data.opening import encoding_of, lines
from wafergpt.data.tag_schemes import (
    OUTSIDE,
    Entity,
    Scheme,
    Tag,
    entities,
    fault,
    parsed,
    scheme_of,
    written,
)
from wafergpt.data.word_splitting import joined
from wafergpt.errors import InputError
from wafergpt.files import short
from wafergpt.progress import say

CONLL = (".conll", ".bio", ".iob", ".iob2", ".bioes", ".bmes", ".ner")
"""Endings of files of words, a line each."""

DOCUMENT = "-DOCSTART-"

_BLANKS = re.compile(r"[ \t]+")
_BETWEEN = Tag(OUTSIDE, "")

REPAIR = "task.repair=true reads an I that continues nothing as a B"


@dataclass(frozen=True)
class Sentences:
    """Sentences of words with their entities, in the order of the file.

    Attributes:
        words: of each sentence, at least one.
        entities: of each sentence, none where they are not known.
        path: the file.
        lines: the first line of each sentence in the file.
        paths: the file of each sentence, if they are of several.
        notes: notes for people, a line each.
    """

    words: list[tuple[str, ...]]
    entities: list[tuple[Entity, ...]]
    path: Path | None = field(default=None, compare=False)
    lines: Sequence[int] = field(default=(), compare=False)
    paths: Sequence[Path] = field(default=(), compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def texts(self) -> list[str]:
        """The sentences as running text."""
        return [joined(words)[0] for words in self.words]

    @property
    def labels(self) -> list[str]:
        """The tags of each sentence, in BIO."""
        return [
            " ".join(written(found, len(words)))
            for words, found in zip(self.words, self.entities, strict=True)
        ]

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Sentences:
        """Return the sentences at these places."""
        return replace(
            self,
            words=[self.words[i] for i in rows],
            entities=[self.entities[i] for i in rows],
            lines=[self.lines[i] for i in rows] if self.lines else (),
            paths=[self.paths[i] for i in rows] if self.paths else (),
        )

    def place(self, row: int) -> str:
        """Return the place of a sentence, for people."""
        path = self.paths[row] if self.paths else self.path
        return f"{path}, line {self.lines[row]}" if self.lines else f"row {row + 1}"


class _Line(NamedTuple):
    """A word of a file: the number of its line, and its tag as written."""

    number: int
    word: str
    tag: str


def is_tagged(path: Path) -> bool:
    """Return whether a file's name says that its lines are words."""
    return suffix(path) in CONLL


def read_sentences(
    path: str | Path,
    tokens: str | None = None,
    tags: str | None = None,
    repair: bool = False,
    tag_names: Sequence[str] = (),
) -> Sentences:
    """Read tagged sentences from a file, plain or compressed.

    A CoNLL file has a word and its columns on each line, separated by tabs or by spaces, and blank
    lines between sentences; ``-DOCSTART-`` and comments are skipped. A JSON Lines file has lists
    of words and of tags. The scheme (BIO, IOB1, BIOES and its relatives) is found in all the tags.

    Args:
        path: the file.
        tokens: the column of the words: a number from 1, or from -1 backwards; the first if
            omitted. Of JSON Lines a name, ``tokens`` if omitted.
        tags: the column of the tags; the last one, or ``tags`` or ``ner_tags``, if omitted.
        repair: read tags that no scheme allows as conlleval does, instead of refusing them.
        tag_names: of tags that JSON Lines have as numbers from 0.

    Raises:
        InputError: if there is no such file or column, no sentence, a word without a tag, or a tag
            that is none or that the scheme does not allow.
    """
    path = Path(path)
    sentences = list(_sentences(path, tokens, tags, tagged=True, tag_names=tag_names))
    parsed_tags = [[_tag(line, path) for line in sentence] for sentence in sentences]
    scheme, note = _scheme(path, sentences, parsed_tags, repair)
    found = [entities(tags) for tags in parsed_tags]
    table = _table(path, sentences, found)
    labels = {entity.label for row in found for entity in row}
    words, many = sum(map(len, table.words)), sum(map(len, found))
    said = (
        f"{path}: {_many(len(found), 'sentence')}, {_many(words, 'word')}, "
        f"{many:,} entit{'y' if many == 1 else 'ies'} of {_many(len(labels), 'label')} ({scheme}"
    )
    encoding = "utf-8" if kind(path) == "parquet" else encoding_of(path)
    say(f"{said})" if encoding == "utf-8" else f"{said}, {encoding.upper()[:6]})")
    return replace(table, notes=note)


def stream_words(path: Path, tokens: str | None = None) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the first line and the words of each sentence of a CoNLL file, with tags or without.

    Args:
        path: the file.
        tokens: the column of the words, as in ``read_sentences``.

    Raises:
        InputError: if there is no such file or column, or no sentence.
    """
    count = 0
    for sentence in _sentences(path, tokens, None, tagged=False):
        count += 1
        yield sentence[0].number, tuple(line.word for line in sentence)
    if not count:
        raise InputError(f"{path} has no words")
    say(f"{path}: {_many(count, 'sentence')}")


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _table(path: Path, sentences: list[list[_Line]], found: list[tuple[Entity, ...]]) -> Sentences:
    if not sentences:
        raise InputError(f"{path} has no words")
    # A character is in a file a hundred thousand times, but once in memory.
    once: dict[str, str] = {}
    words = [tuple(once.setdefault(line.word, line.word) for line in row) for row in sentences]
    return Sentences(words, found, path, [sentence[0].number for sentence in sentences])


def _tag(line: _Line, path: Path) -> Tag:
    tag = parsed(line.tag)
    if tag is None:
        raise InputError(
            f"{path}, line {line.number}: {short(line.tag)} is no tag of an entity, such as O, "
            "B-LABEL and I-LABEL; task.tags=COLUMN names another column"
        )
    return tag


def _scheme(
    path: Path, sentences: list[list[_Line]], tags: list[list[Tag]], repair: bool
) -> tuple[Scheme, tuple[str, ...]]:
    """Return the scheme of a file, and a note on what was repaired.

    Raises:
        InputError: on the first tag that it does not allow.
    """
    # Few pairs of tags follow each other, and each many times.
    pairs = Counter(
        pair for row in tags for pair in zip([_BETWEEN, *row], [*row, _BETWEEN], strict=True)
    )
    scheme = scheme_of(pairs)
    faults = sum(count for pair, count in pairs.items() if fault(*pair, scheme))
    if not faults:
        return scheme, ()
    for sentence, row in zip(sentences, tags, strict=True):
        padded = [_BETWEEN, *row, _BETWEEN]
        for place, pair in enumerate(pairwise(padded)):
            if fault(*pair, scheme):
                line = sentence[min(place, len(sentence) - 1)]
                break
        else:
            continue
        break
    after = "the sentence's start" if place == 0 else short(sentence[place - 1].tag)
    what = (
        f"{short(line.tag)} after {after}" if place < len(row) else f"the sentence ends in {after}"
    )
    if repair:
        return scheme, (
            f"{path}: {_many(faults, 'tag')} that {scheme} does not allow are repaired "
            f"(first: line {line.number})",
        )
    raise InputError(
        f"{path}, line {line.number}: {what}, which {scheme} does not allow"
        f"{f' ({faults:,} of such)' if faults > 1 else ''}: {REPAIR}"
    )


def _sentences(
    path: Path, tokens: str | None, tags: str | None, tagged: bool, tag_names: Sequence[str] = ()
) -> Iterator[list[_Line]]:
    require_file(path)
    if kind(path) in ("jsonl", "parquet") or (not is_tagged(path) and _begins_with_json(path)):
        yield from _json_sentences(path, tokens, tags, tagged, tag_names)
        return
    if kind(path) == "csv":
        raise InputError(
            f"{path}: tagged words are wanted as CoNLL (a word and its tag on each line, separated "
            "by a tab or a space; blank lines between sentences) or as jsonl"
        )
    sentence: list[_Line] = []
    for line in _words(path, tokens, tags, tagged):
        if line is not None:
            sentence.append(line)
        elif sentence:
            yield sentence
            sentence = []
    if sentence:
        yield sentence


def _begins_with_json(path: Path) -> bool:
    first = next((line for _, line in lines(path) if line.strip()), "")
    return json_object(first) is not None


def _words(
    path: Path, tokens: str | None, tags: str | None, tagged: bool
) -> Iterator[_Line | None]:
    """Yield the words of a CoNLL file, and None between sentences."""
    token, tag = _place(tokens, 0, "task.tokens"), _place(tags, -1, "task.tags")
    columns = first = 0
    tabs = begun = False
    for number, line in held(path, lines(path)):
        line = line.rstrip("\r\n")
        if not line.strip():
            begun = False
            yield None
            continue
        if not columns:
            tabs = "\t" in line
        # A space may be a word, but not a part of one.
        cells = (
            [c.strip(" ") or c for c in line.split("\t")]
            if tabs
            else _BLANKS.split(line.strip(" \t"))
        )
        if cells[0] == DOCUMENT:
            begun = False
            yield None
            continue
        if line.startswith("#") and not begun and _is_comment(line, cells, columns):
            continue
        if not columns:
            columns, first = len(cells), number
            _require_columns(path, number, columns, token, tag if tagged else 0)
        begun = True
        # What is counted from the end is where the first line has it.
        at, of = token % columns, tag % columns
        missing = at >= len(cells) or (tagged and (of >= len(cells) or not cells[of].strip()))
        if missing or len(cells) > columns:
            raise InputError(
                f"{path}, line {number}: {_many(len(cells), 'column')}, where line {first} has "
                f"{columns}{': the tag is missing' if missing else ''}"
            )
        if not cells[at]:
            raise InputError(f"{path}, line {number}: no word before its columns")
        yield _Line(number, whole(cells[at], path, number), cells[of].strip() if tagged else "")


def _is_comment(line: str, cells: Sequence[str], columns: int) -> bool:
    """Return whether a sentence's first line, which begins with #, is none of its words."""
    as_others = len(cells) == columns if columns else len(cells) > 1
    return not as_others or "=" in cells or (not columns and parsed(cells[-1].strip()) is None)


def _place(column: str | None, default: int, key: str) -> int:
    """Return a column's index, which may be counted from the end.

    Raises:
        InputError: if it is no number of a column.
    """
    if column is None:
        return default
    if not re.fullmatch(r"-?[1-9]\d{0,5}", column):
        raise InputError(
            f"{key}={short(column)}: a column of a CoNLL file is a number from 1, or from -1 "
            "backwards; names are for jsonl"
        )
    number = int(column)
    return number - 1 if number > 0 else number


def _require_columns(path: Path, number: int, columns: int, token: int, tag: int) -> None:
    for place, key in ((token, "task.tokens"), (tag, "task.tags")):
        if not -columns <= place < columns:
            raise InputError(
                f"{path}, line {number}: no column {place + (place >= 0)}, for there "
                f"{'is' if columns == 1 else 'are'} {columns}; {key}=NUMBER names another"
            )
    if tag and columns == 1:
        raise InputError(
            f"{path}, line {number}: one column, where a word and its tag are wanted, separated by "
            "a tab or a space"
        )


def _json_sentences(
    path: Path, tokens: str | None, tags: str | None, tagged: bool, tag_names: Sequence[str]
) -> Iterator[list[_Line]]:
    found: FileFormat = "parquet" if kind(path) == "parquet" else "jsonl"
    for number, row in rows(path, file_format=found, names=(tokens or "tokens",)):
        others = "ner_tags" if "ner_tags" in row and "tags" not in row else "tags"
        names = (tokens or "tokens", tags or others)
        words = _strings(
            column(row, names[0], path, number, "task.tokens=NAME"), *names[:1], path, number
        )
        letters = [""] * len(words)
        if tagged:
            tagged_as = column(row, names[1], path, number, "task.tags=NAME")
            letters = _strings(_named(tagged_as, tag_names, path, number), names[1], path, number)
            if len(words) != len(letters):
                raise InputError(
                    f"{path}, line {number}: {_many(len(words), 'word')}, but "
                    f"{_many(len(letters), 'tag')}"
                )
        if words:
            yield [_Line(number, *pair) for pair in zip(words, letters, strict=True)]


def _named(tags: Any, names: Sequence[str], path: Path, number: int) -> Any:
    """Return a list of numbers as names, and anything else as it is.

    Raises:
        InputError: if a number has no name.
    """
    if not isinstance(tags, list) or not tags or not all(type(tag) is int for tag in tags):
        return tags
    if unknown := [tag for tag in tags if not 0 <= tag < len(names)]:
        raise InputError(
            f"{path}, line {number}: the tag {unknown[0]} is a number"
            f"{f', but there are {len(names):,} names' if names else ''}: "
            "task.tag_names=[O,B-PER,I-PER] names the tags 0, 1, 2"
        )
    return [names[tag] for tag in tags]


def _strings(value: Any, name: str, path: Path, number: int) -> list[str]:
    """Return a list of strings that are not empty.

    Raises:
        InputError: if it is not one.
    """
    wrong = "not a list"
    if isinstance(value, list):
        bad = next((v for v in value if not isinstance(v, str) or not v), None)
        if bad is None and "" not in value and None not in value:
            return [whole(v, path, number) for v in value]
        wrong = f"{short(bad)} in it, where names are wanted"
        if bad in ("", None):
            wrong = "an empty word or tag"
    raise InputError(f"{path}, line {number}: '{name}' has {wrong}".replace("has not", "is not"))
