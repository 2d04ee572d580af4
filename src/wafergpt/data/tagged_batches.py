"""Tagged sentences as batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from wafergpt.data.batches import Batch, Ints
from wafergpt.data.length_order import OrderedBatches, padded
from wafergpt.data.tag_reading import windows as windows_of
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.data.word_features import feature_rows, own_hashes
from wafergpt.data.word_splitting import pieces


class Window(NamedTuple):
    """A sentence, or as much of it as fits the context.

    Attributes:
        tokens: of all its words.
        ends: for each word, the token after its last one.
        ids: of its words in a vocabulary, from 1.
    """

    tokens: NDArray[np.int32]
    ends: NDArray[np.int32]
    ids: NDArray[np.int32]


@dataclass(frozen=True)
class EncodedSentences:
    """Sentences as tokens of words.

    Attributes:
        windows: of all sentences, one after the other.
        counts: ``[sentences]``, the windows of each.
        words: the vocabulary.
        cut_words: how many words have more tokens than the context, and lost those beyond it.
    """

    windows: list[Window]
    counts: Ints
    words: list[str]
    cut_words: int

    @property
    def split(self) -> int:
        """How many sentences are in several windows."""
        return int((self.counts > 1).sum())

    def divided(self, values: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Cut values of all words, one sentence after the other, at the ends of windows."""
        ends = np.cumsum([len(window.ends) for window in self.windows])
        yield from np.split(values, ends[:-1])


def encoded(
    sentences: Sequence[Sequence[str]], tokenizer: Tokenizer, limit: int
) -> EncodedSentences:
    """Encode sentences, those of more than ``limit`` tokens in several windows.

    A word is encoded by itself, as it stands in running text.
    """
    known: dict[str, int] = {}
    ids: dict[str, int] = {}
    rows = []
    for sentence in sentences:
        written = [known.setdefault(piece, len(known)) for piece in pieces(sentence)]
        rows.append((written, [ids.setdefault(word, len(ids) + 1) for word in sentence]))
    found = tokenizer.encode_batch(list(known))
    tokens = [np.array(one[:limit] or [tokenizer.end_of_text], dtype=np.int32) for one in found]
    long = {place for place, one in enumerate(found) if len(one) > limit}
    cut = sum(len(long.intersection(written)) for written, _ in rows) if long else 0
    windows: list[Window] = []
    counts = np.zeros(len(rows), dtype=np.int64)
    for place, (written, words) in enumerate(rows):
        parts = [tokens[piece] for piece in written]
        ends = np.cumsum([len(part) for part in parts])
        for first, last in windows_of(ends, limit):
            before = int(ends[first - 1]) if first else 0
            windows.append(
                Window(
                    np.concatenate(parts[first:last]),
                    (ends[first:last] - before).astype(np.int32),
                    np.array(words[first:last], dtype=np.int32),
                )
            )
            counts[place] += 1
    return EncodedSentences(windows, counts, list(ids), cut)


class TaggedBatches(OrderedBatches):
    """Sentences with a tag for each word, in a new keyed order each epoch.

    Args:
        sentences: encoded.
        targets: the tags of each window's words; None if they are not known.
        batch_size: the number of samples that are padded together.
        seed: of the run; None sorts by length and shuffles nothing (validation).
        table_rows: of the words' features; 0: the task has no weights for them.
    """

    def __init__(
        self,
        sentences: EncodedSentences,
        targets: Sequence[NDArray[np.int64]] | None,
        batch_size: int,
        seed: int | None,
        table_rows: int,
    ) -> None:
        lengths = np.array([len(window.tokens) for window in sentences.windows])
        super().__init__(lengths, batch_size, seed)
        self._windows, self._targets, self._rows = sentences.windows, targets, table_rows
        self._hashes = own_hashes(sentences.words) if table_rows else None

    def batch(self, first_sample: int, n: int) -> Batch:
        """Return samples as one batch, all of it padded with 0.

        ``tokens [n, length]``, their number ``lengths [n]``; ``words [n, most, 2]``, where each
        word's tokens begin and end, their number ``word_counts [n]``; ``features [n, most,
        N_FEATURES]`` if there is a table; and ``targets [n, most]`` if they are known.
        """
        chosen = self.indices(first_sample, n)
        windows = [self._windows[index] for index in chosen]
        counts = np.array([len(window.ends) for window in windows])
        ids = np.zeros((n, int(counts.max())), dtype=np.int64)
        words = np.zeros((*ids.shape, 2), dtype=np.int64)
        targets = np.zeros_like(ids)
        for row, (window, count) in enumerate(zip(windows, counts, strict=True)):
            ids[row, :count] = window.ids
            words[row, 1:count, 0] = window.ends[:-1]
            words[row, :count, 1] = window.ends
            if self._targets is not None:
                targets[row, :count] = self._targets[chosen[row]]
        arrays = {
            "lengths": np.array([len(window.tokens) for window in windows]),
            "words": words,
            "word_counts": counts,
        }
        if self._hashes is not None:
            arrays["features"] = feature_rows(self._hashes, ids, self._rows)
        if self._targets is not None:
            arrays["targets"] = targets
        tokens = padded([window.tokens for window in windows], self._order.padded(chosen))
        tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
        return Batch({"tokens": tokens, **tensors}, weight=int(counts.sum()))
