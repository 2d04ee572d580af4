"""Words and tags of a file as they are written: CoNLL of any columns, and JSON Lines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wafergpt.data.file_formats import (
    FileFormat,
    column,
    kind,
    require_file,
    require_kind,
    rows,
    suffix,
    whole,
)
from wafergpt.data.json_rows import json_object
from wafergpt.data.labelled_rows import held
from wafergpt.data.opening import lines
from wafergpt.data.tag_schemes import parsed
from wafergpt.errors import InputError
from wafergpt.files import many, short

CONLL = (".conll", ".bio", ".iob", ".iob2", ".bioes", ".bmes", ".ner")
"""Endings of files of words, a line each."""

DOCUMENT = "-DOCSTART-"

_BLANKS = re.compile(r"[ \t]+")


class Line(NamedTuple):
    """A word of a file: the number of its line, and its tag as written."""

    number: int
    word: str
    tag: str


def is_tagged(path: Path) -> bool:
    """Return whether a file's name says that its lines are words."""
    return suffix(path) in CONLL


def written_sentences(
    path: Path, tokens: str | None, tags: str | None, tagged: bool, tag_names: Sequence[str] = ()
) -> Iterator[list[Line]]:
    """Yield the sentences of a file, their tags as written.

    Args:
        path: the file.
        tokens: the column of the words (see ``read_sentences``).
        tags: the column of the tags.
        tagged: whether tags are read; they are empty otherwise.
        tag_names: of tags that JSON Lines have as numbers from 0.

    Raises:
        InputError: if there is no such file or column, or a word has no tag.
    """
    require_file(path)
    if kind(path) in ("jsonl", "parquet") or (not is_tagged(path) and _begins_with_json(path)):
        yield from _json_sentences(path, tokens, tags, tagged, tag_names)
        return
    if kind(path) == "csv":
        raise InputError(
            f"{path}: tagged words are wanted as CoNLL (a word and its tag on each line, separated "
            "by a tab or a space; blank lines between sentences) or as jsonl"
        )
    sentence: list[Line] = []
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


def _words(path: Path, tokens: str | None, tags: str | None, tagged: bool) -> Iterator[Line | None]:
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
        if line.startswith("#") and not begun and _is_comment(cells, columns):
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
                f"{path}, line {number}: {many(len(cells), 'column')}, where line {first} has "
                f"{columns}{': the tag is missing' if missing else ''}"
            )
        if not cells[at]:
            raise InputError(f"{path}, line {number}: no word before its columns")
        yield Line(number, whole(cells[at], path, number), cells[of].strip() if tagged else "")


def _is_comment(cells: Sequence[str], columns: int) -> bool:
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
) -> Iterator[list[Line]]:
    found: FileFormat = "parquet" if kind(path) == "parquet" else "jsonl"
    for number, row, words in word_lists(path, tokens or "tokens", found, "task.tokens=NAME"):
        others = "ner_tags" if "ner_tags" in row and "tags" not in row else "tags"
        letters: Sequence[str] = [""] * len(words)
        if tagged:
            name = tags or others
            tagged_as = column(row, name, path, number, "task.tags=NAME")
            letters = _strings(_named(tagged_as, tag_names, path, number), name, path, number)
            if len(words) != len(letters):
                raise InputError(
                    f"{path}, line {number}: {many(len(words), 'word')}, but "
                    f"{many(len(letters), 'tag')}"
                )
        if words:
            yield [Line(number, *pair) for pair in zip(words, letters, strict=True)]


def has_word_lists(
    path: Path, name: str, file_format: FileFormat | None, unless: str | None
) -> bool:
    """Return whether the rows of a file have lists of words to read.

    Args:
        path: the file.
        name: their column.
        file_format: of the file; None detects it.
        unless: a column that is read instead where it is there.
    """
    if require_kind(path, file_format, (name,)) not in ("jsonl", "parquet"):
        return False
    first = next((row for _, row in rows(path, file_format=file_format)), {})
    return isinstance(first.get(name), list) and unless not in first


def word_lists(
    path: Path, name: str, file_format: FileFormat | None, option: str
) -> Iterator[tuple[int, dict[str, Any], tuple[str, ...]]]:
    """Yield the line, all columns and the words of each row of a file.

    Args:
        path: the file.
        name: the column of the words.
        file_format: of the file; None detects it.
        option: by which a user names another column.

    Raises:
        InputError: if a row has no list of words.
    """
    for number, row in rows(path, file_format=file_format, names=(name,)):
        value = column(row, name, path, number, option)
        yield number, row, tuple(_strings(value, name, path, number))


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
