"""Which test rows a model may have read in its training: shared n-grams of words."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafergpt.config import Recipe
from wafergpt.errors import InputError
from wafergpt.evaluation.intervals import wilson
from wafergpt.logs import silent
from wafergpt.progress import progress
from wafergpt.runs.run import Run
from wafergpt.suites.sources import named_sources
from wafergpt.tasks.base import task_of
from wafergpt.tasks.labelled_task import LabelledTask
from wafergpt.tasks.language_model import corpus_of

WORST = 20
"""Rows that are listed."""

EXCERPT = 120
"""Characters of a row that is listed."""

CHARACTERS_PER_WORD = 2
"""Characters that count as a word of a script without spaces, whose words have one or two."""

_UNSPACED = re.compile(
    # Thai and Lao, Myanmar, Khmer, kana, Han.
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""A character of a script without spaces."""

_FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""Odd; the hash of an n-gram is a polynomial in it, modulo 2⁶⁴, of the hashes of its words."""


def contamination(
    rows: Sequence[str],
    corpus: Sequence[str | Path],
    n: int = 13,
    column: str = "text",
    texts: Sequence[str] = (),
) -> dict[str, Any]:
    """Find the test rows that share an n-gram of words with training texts.

    A row counts as contaminated if any of its n-grams is in any training document (Brown et al.,
    arXiv:2005.14165, Appendix C). Words are compared in lower case; punctuation, symbols and white
    space only separate them. A character of a script without spaces (Han, kana, Thai, Lao, Khmer,
    Myanmar) is a word of its own, and a row of which at least half is such characters is compared
    in n-grams of twice the length. A row that is shorter is compared whole: short rows are found in
    most corpora by chance, and are counted apart.

    N-grams are compared by 64-bit hashes. Memory depends on the rows and on the longest document
    alone.

    Args:
        rows: the texts that a model is tested on.
        corpus: what it was trained on: files, folders and globs of text as ``wafergpt prepare``
            reads them, or folders of corpora, of which the training part is decoded.
        n: words of an n-gram.
        column: of texts, in files that have columns.
        texts: further training documents.

    Returns:
        ``n``; ``rows``; ``blank`` rows without a word, which no share is of; ``contaminated`` rows,
        their ``share`` and its ``interval``; ``whole``, those of them all of whose n-grams were
        found; ``duplicates``, rows with the same words as a whole training document; ``short``
        rows and ``short_contaminated``; training ``documents`` and their ``bytes``; and ``worst``,
        up to 20 contaminated rows: the ``row`` (from 0), the ``share`` of its distinct n-grams that
        was found, whether it is ``short`` or a ``duplicate``, and an excerpt of its ``text``.

    Raises:
        InputError: if there is no row with a word, no corpus, ``n`` is below 1, or a source cannot
            be read.
    """
    if n < 1:
        raise InputError(f"n-grams of {n} words are impossible: at least 1")
    if not corpus and not texts:
        raise InputError("which training texts? name files, or the folder of a corpus")
    tested = _Rows.of(rows, n)
    if not len(tested.places):
        raise InputError("there is no row with a word to search for")
    documents, size = 0, 0
    sources = named_sources(corpus, column, "--corpus-column COLUMN") if corpus else []
    read = (text for source in sources for text in source.texts("train"))
    with progress("searching training texts", None, "MB") as bar:
        for text in chain(read, texts):
            tested.search(text)
            taken = len(text.encode())
            documents, size = documents + 1, size + taken
            bar.advance(taken / 1e6)
    shares, duplicate = tested.shares(), tested.duplicate
    found = shares > 0
    share = float(found.mean())
    order = np.lexsort((tested.places, ~duplicate, tested.short, -shares))
    return {
        "n": n,
        "rows": len(rows),
        "blank": len(rows) - len(found),
        "contaminated": int(found.sum()),
        "share": share,
        "interval": list(wilson(share, len(found))),
        "whole": int((shares == 1).sum()),
        "duplicates": int(duplicate.sum()),
        "short": int(tested.short.sum()),
        "short_contaminated": int((found & tested.short).sum()),
        "documents": documents,
        "bytes": size,
        "worst": [
            {
                "row": int(tested.places[row]),
                "share": float(shares[row]),
                "short": bool(tested.short[row]),
                "duplicate": bool(duplicate[row]),
                "text": _excerpt(rows[tested.places[row]]),
            }
            for row in order[:WORST].tolist()
            if found[row]
        ],
    }


@dataclass(frozen=True)
class TrainingTexts:
    """What a run was trained on, as far as it is here.

    Attributes:
        corpora: of language models.
        texts: of labelled rows.
        missing: runs whose training texts are not here.
    """

    corpora: list[Path]
    texts: list[str]
    missing: list[str]


def training_texts(run: Run) -> TrainingTexts:
    """Return what a run, and the runs that it began with, were trained on."""
    found, seen = TrainingTexts([], [], []), set[str | None]()
    while True:
        recipe = run.recipe
        read = recipe.data.fingerprint
        try:
            # What was read again, as after pruning, is searched once.
            if read not in seen:
                _add(found, recipe)
            seen.add(read)
        except InputError:
            found.missing.append(run.name)
        if recipe.start is None:
            return found
        try:
            run = Run.find(recipe.start)
        except InputError:
            found.missing.append(Path(recipe.start).name)
            return found


def _add(found: TrainingTexts, recipe: Recipe) -> None:
    """Add what a recipe was trained on.

    Raises:
        InputError: if it is not here, or other texts are in its place.
    """
    task = task_of(recipe)
    if isinstance(task, LabelledTask):
        with silent():
            found.texts.extend(task.texts_of(task.rows("train")))
        return
    corpus = corpus_of(recipe)
    if corpus.fingerprint != recipe.data.fingerprint:
        raise InputError(f"{corpus.path} is another corpus than that of the training")
    found.corpora.append(corpus.path)


def words_of(text: str) -> list[str]:
    """Return the words of a text as ``contamination`` compares them."""
    text = text.lower().translate(_separators())
    if not text.isascii():
        text = _UNSPACED.sub(r" \g<0> ", text)
    return text.split()


class _Table:
    """The distinct n-grams of rows that are compared in one length, and which were found.

    Args:
        rows: that are.
        grams: hashes of each row's distinct n-grams.
    """

    def __init__(self, rows: Sequence[int], grams: Sequence[NDArray[np.uint64]]) -> None:
        self._owners = np.repeat(np.array(rows), [len(own) for own in grams])
        self._known, self._places = np.unique(np.concatenate(grams), return_inverse=True)
        self._found = np.zeros(len(self._known), dtype=np.bool_)
        # Most n-grams of a corpus are no row's, which their first bits tell faster than a search.
        bits = (8 * len(self._known)).bit_length()
        self._shift = np.uint64(64 - bits)
        self._first = np.zeros(1 << bits, dtype=np.bool_)
        self._first[self._known >> self._shift] = True

    def mark(self, grams: NDArray[np.uint64]) -> None:
        """Note that training texts have these n-grams."""
        grams = grams[self._first[grams >> self._shift]]
        at = np.minimum(np.searchsorted(self._known, grams), len(self._known) - 1)
        self._found[at[self._known[at] == grams]] = True

    def counts(self, n: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return how many n-grams of each of ``n`` rows were found, and how many it has."""
        hits = np.bincount(self._owners[self._found[self._places]], minlength=n)
        return hits, np.bincount(self._owners, minlength=n)


@dataclass(frozen=True)
class _Rows:
    """Rows that have words, and what of them was found.

    Attributes:
        places: of the rows among all that were given.
        short: ``[rows]``, whether a row is compared whole.
        duplicate: ``[rows]``, whether a document has the same words.
        wholes: the rows by a hash of all their words.
        tables: of n-grams by their length.
    """

    places: NDArray[np.int64]
    short: NDArray[np.bool_]
    duplicate: NDArray[np.bool_]
    wholes: dict[int, list[int]]
    tables: dict[int, _Table]

    @classmethod
    def of(cls, rows: Sequence[str], n: int) -> _Rows:
        places: list[int] = []
        short: list[bool] = []
        wholes: dict[int, list[int]] = {}
        owners: dict[int, list[int]] = {}
        own: dict[int, list[NDArray[np.uint64]]] = {}
        for place, text in enumerate(rows):
            words = words_of(text)
            if not words:
                continue
            wanted = n * (CHARACTERS_PER_WORD if _is_unspaced(words) else 1)
            length = min(wanted, len(words))
            ((_, grams),) = _ngrams(words, [length])
            own.setdefault(length, []).append(np.unique(grams))
            owners.setdefault(length, []).append(len(places))
            wholes.setdefault(_whole(words), []).append(len(places))
            places.append(place)
            short.append(length < wanted)
        return cls(
            np.array(places, dtype=np.int64),
            np.array(short, dtype=np.bool_),
            np.zeros(len(places), dtype=np.bool_),
            wholes,
            {length: _Table(owners[length], own[length]) for length in own},
        )

    def search(self, text: str) -> None:
        """Mark the n-grams that a training document has."""
        words = words_of(text)
        if not words:
            return
        self.duplicate[self.wholes.get(_whole(words), [])] = True
        for length, grams in _ngrams(words, self.tables):
            self.tables[length].mark(grams)

    def shares(self) -> NDArray[np.float64]:
        """Return the share ``[rows]`` of each row's n-grams that was found."""
        hits, total = np.zeros(len(self.places)), np.zeros(len(self.places))
        for table in self.tables.values():
            found, own = table.counts(len(hits))
            hits += found
            total += own
        return hits / total


def _ngrams(words: list[str], lengths: Collection[int]) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """Yield each length that is asked for with the hashes of the n-grams, shortest first."""
    # Hashes of strings differ between processes, and are compared within one alone.
    values = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
    hashes = np.zeros(len(values), dtype=np.uint64)
    for length in range(1, min(max(lengths), len(values)) + 1):
        hashes = hashes[: len(values) - length + 1] * _FACTOR + values[length - 1 :]
        if length in lengths:
            yield length, hashes


def _whole(words: list[str]) -> int:
    return hash(tuple(words))


def _is_unspaced(words: list[str]) -> bool:
    return 2 * sum(_UNSPACED.match(word) is not None for word in words) >= len(words)


@cache
def _separators() -> dict[int, str]:
    """Return a space for each character of punctuation, symbol or control."""
    kinds = ((code, unicodedata.category(chr(code))) for code in range(sys.maxunicode + 1))
    return {code: " " for code, kind in kinds if kind[0] in "PS" or kind in ("Cc", "Cf")}


def _excerpt(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"
