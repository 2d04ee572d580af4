"""Sentences whose words are tagged: CoNLL files of any columns, and JSON Lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wafergpt.data.file_formats import kind
from wafergpt.data.opening import encoding_of
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
from wafergpt.data.tagged_files import Line, written_sentences
from wafergpt.data.word_splitting import joined
from wafergpt.errors import InputError
from wafergpt.files import many, short
from wafergpt.logs import say

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
    sentences = list(written_sentences(path, tokens, tags, tagged=True, tag_names=tag_names))
    parsed_tags = [[_tag(line, path) for line in sentence] for sentence in sentences]
    scheme, note = _scheme(path, sentences, parsed_tags, repair)
    found = [entities(tags) for tags in parsed_tags]
    table = _table(path, sentences, found)
    labels = {entity.label for row in found for entity in row}
    words, count = sum(map(len, table.words)), sum(map(len, found))
    said = (
        f"{path}: {many(len(found), 'sentence')}, {many(words, 'word')}, "
        f"{count:,} entit{'y' if count == 1 else 'ies'} of {many(len(labels), 'label')} ({scheme}"
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
    for sentence in written_sentences(path, tokens, None, tagged=False):
        count += 1
        yield sentence[0].number, tuple(line.word for line in sentence)
    if not count:
        raise InputError(f"{path} has no words")
    say(f"{path}: {many(count, 'sentence')}")


def _table(path: Path, sentences: list[list[Line]], found: list[tuple[Entity, ...]]) -> Sentences:
    if not sentences:
        raise InputError(f"{path} has no words")
    # A character is in a file a hundred thousand times, but once in memory.
    once: dict[str, str] = {}
    words = [tuple(once.setdefault(line.word, line.word) for line in row) for row in sentences]
    return Sentences(words, found, path, [sentence[0].number for sentence in sentences])


def _tag(line: Line, path: Path) -> Tag:
    tag = parsed(line.tag)
    if tag is None:
        raise InputError(
            f"{path}, line {line.number}: {short(line.tag)} is no tag of an entity, such as O, "
            "B-LABEL and I-LABEL; task.tags=COLUMN names another column"
        )
    return tag


def _scheme(
    path: Path, sentences: list[list[Line]], tags: list[list[Tag]], repair: bool
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
            f"{path}: {many(faults, 'tag')} that {scheme} does not allow are repaired "
            f"(first: line {line.number})",
        )
    raise InputError(
        f"{path}, line {line.number}: {what}, which {scheme} does not allow"
        f"{f' ({faults:,} of such)' if faults > 1 else ''}: {REPAIR}"
    )
