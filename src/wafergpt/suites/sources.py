"""Sources of documents: files of text, or a corpus that was made of them."""

from __future__ import annotations

import glob
import hashlib
import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wafergpt import files
from wafergpt.data.corpus import Corpus
from wafergpt.data.documents import documents, find_files
from wafergpt.data.file_formats import KINDS
from wafergpt.data.megatron_indexed import IndexedTokens
from wafergpt.data.opening import COMPRESSED
from wafergpt.errors import InputError


@dataclass(frozen=True)
class Source:
    """Documents of one origin.

    Attributes:
        name: for people, unlike that of others.
        path: a file, a folder or a glob; or the folder of a corpus.
        corpus: if it is one.
        column: of texts, in files that have columns.
        option: what names another column, for errors.
    """

    name: str
    path: str
    corpus: Corpus | None = None
    column: str = "text"
    option: str = "task.text=COLUMN"

    def texts(self, split: str) -> Iterator[str]:
        """Yield the documents one by one.

        Args:
            split: of a corpus, ``train`` or ``val``; other sources have only one.

        Yields:
            Texts as ``wafergpt prepare`` reads them; those of a corpus are decoded.

        Raises:
            InputError: if nothing readable is there.
        """
        if self.corpus is None:
            found = find_files([self.path])
            read = documents(found, self.column, option=self.option)
            yield from (one.text for one in read)
            return
        stream, tokenizer = self.corpus.tokens(split), self.corpus.tokenizer
        start = 0
        for length in _lengths(self.corpus, split).tolist():
            # Each document ends with the end of text.
            yield tokenizer.decode(stream.take(start, length - 1).tolist())
            start += length


def named_sources(
    given: Sequence[str | Path], column: str = "text", option: str = "task.text=COLUMN"
) -> list[Source]:
    """Return sources with a name each: that of ``NAME=PATH``, or the end of the path.

    Args:
        given: files, folders and globs, or folders of corpora.
        column: of texts, in files that have columns.
        option: what names another column, for errors.

    Returns:
        As many sources.

    Raises:
        InputError: if a corpus is not finished or damaged, or two have the same name.
    """
    split = [_split(source) for source in given]
    longest = max(len(Path(path).absolute().parts) for _, path in split)
    for parts in range(1, longest + 1):
        names = [name or _short(path, parts) for name, path in split]
        if len(set(names)) == len(names):
            break
    else:
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two sources are named '{twice}': NAME=PATH gives one another name")
    return [
        Source(name, path, Corpus.open(path) if _is_corpus(Path(path)) else None, column, option)
        for name, (_, path) in zip(names, split, strict=True)
    ]


def drawn(texts: Iterable[str], n: int) -> tuple[list[str], int]:
    """Draw documents in bounded memory: the same ones in whatever order they come.

    Args:
        texts: of the documents.
        n: how many to draw.

    Returns:
        The ``n`` with the smallest hash in their own order, or all, and how many there are.
    """
    held: list[tuple[int, int, str]] = []
    number = 0
    for number, text in enumerate(texts, 1):
        # Another hash than that by which a corpus holds documents out.
        digest = hashlib.blake2b(text.encode(), digest_size=8, person=b"drawn").digest()
        item = (-int.from_bytes(digest, "big"), -number, text)
        if len(held) < n:
            heapq.heappush(held, item)
        else:
            heapq.heappushpop(held, item)
    return [text for _, _, text in sorted(held, key=lambda item: -item[1])], number


def _split(source: str | Path) -> tuple[str, str]:
    """Return the name and the path of a source; "" if it has no name."""
    text = str(source)
    name, equals, path = text.partition("=")
    if not (equals and name and path) or "/" in name:
        return "", str(files.from_home(text))
    if files.exists(files.from_home(text)):
        return "", text
    return name, str(files.from_home(path))


def _short(path: str, parts: int) -> str:
    """Return the last parts of a path, without the endings of known files."""
    short = Path(*Path(path).absolute().parts[-parts:])
    if not glob.has_magic(short.name):
        for endings in (COMPRESSED, KINDS):
            if short.suffix.lower() in endings:
                short = short.with_suffix("")
    return str(short)


def _is_corpus(path: Path) -> bool:
    return files.is_corpus(path) or files.is_file(path / "prepare.json")


def _lengths(corpus: Corpus, split: str) -> NDArray[np.int64]:
    """Return the tokens of each document of a part of a corpus."""
    names = sorted({Path(name).stem for name in corpus.facts["files"] if name.startswith(split)})
    shards = [IndexedTokens(corpus.path / name).lengths for name in names]
    return np.concatenate([np.zeros(0, np.int64), *shards])
