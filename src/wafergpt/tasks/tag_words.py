"""Words of what is tagged, and entities in its text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from wafergpt.data.cells import described
from wafergpt.data.tag_schemes import Entity
from wafergpt.data.tagged_files import has_word_lists, is_tagged, word_lists
from wafergpt.data.tagged_rows import stream_words
from wafergpt.data.word_splitting import Units, Word, joined, sentences, words_of
from wafergpt.errors import InputError
from wafergpt.tasks.samples import InputFormat, InputRow


def require_words(value: Sequence[object]) -> tuple[str, ...]:
    """Check the words of a sentence.

    Args:
        value: what was given as words.

    Returns:
        The words.

    Raises:
        InputError: if one is no word, with a message that continues after the sentence's index.
    """
    for place, word in enumerate(value):
        if not isinstance(word, str) or not word:
            what = described(word) if word != "" else "an empty word"
            raise InputError(f"[{place}] is {what}; words are wanted")
    return tuple(map(str, value))


def sentences_of(value: str | tuple[str, ...], units: Units) -> Iterator[list[str]]:
    """Yield the words of each sentence of a text; words that are given are one sentence."""
    if not isinstance(value, str):
        yield list(value)
        return
    words, place = words_of(value, units), 0
    for length in sentences(value, words):
        yield [word.text for word in words[place : place + length]]
        place += length


def placed_words(value: str | tuple[str, ...], units: Units) -> tuple[str, list[Word]]:
    """Return the text of an input, and its words with their places."""
    return (value, words_of(value, units)) if isinstance(value, str) else joined(value)


def entities_found(
    text: str, words: Sequence[Word], entities: Sequence[Entity], sure: NDArray[Any]
) -> Iterator[dict[str, Any]]:
    """Yield entities as ``predict`` prints them.

    Args:
        text: that they are in.
        words: some of its words.
        entities: as places in ``words``.
        sure: ``[n]``, the probability of each word's tag.

    Yields:
        Text, label, places of characters, and the lowest probability among the words.
    """
    for first, end, label in entities:
        start, stop = words[first].start, words[end - 1].end
        yield {
            "text": text[start:stop],
            "label": label,
            "start": start,
            "end": stop,
            "score": float(sure[first:end].min()),
        }


def word_rows(
    path: Path, column: str | None, file_format: InputFormat | None, tokens: str | None, text: str
) -> Iterator[InputRow] | None:
    """Return the rows of a file whose sentences are divided into words, None if they are texts.

    Args:
        path: the file.
        column: that is asked for.
        file_format: that is asked for.
        tokens: the column of words if none is asked for.
        text: that of texts, which are read where both are there.

    Returns:
        The rows as they are read, or None.
    """
    # The recipe's column is a number in the one kind of files, and a name in the other.
    numbered = tokens is not None and tokens.isdecimal()
    name = column or (None if numbered else tokens)
    unless = None if column else text
    read: Iterable[tuple[int, Mapping[str, Any], tuple[str, ...]]]
    if file_format == "conll" or (file_format is None and is_tagged(path)):
        number = column or (tokens if numbered else None)
        read = ((n, {"tokens": [*words]}, words) for n, words in stream_words(path, number))
    elif has_word_lists(path, name or "tokens", file_format, unless):
        read = word_lists(path, name or "tokens", file_format, "--column COLUMN")
    else:
        return None
    return (InputRow(line, row, words, joined(words)[0]) for line, row, words in read)
