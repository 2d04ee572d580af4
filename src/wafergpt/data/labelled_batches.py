"""Labelled texts as batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from wafergpt.data.batches import Batch
from wafergpt.data.length_order import OrderedBatches, padded
from wafergpt.data.ngram_ratios import log_count_ratios, shared_ngrams
from wafergpt.data.text_columns import lengths_left
from wafergpt.data.tokenizer import Tokenizer

Cut = Literal["end", "start", "middle"]


def cut_tokens(tokens: Sequence[int], limit: int, cut: Cut) -> NDArray[np.int64]:
    """Cut a text to ``limit`` tokens at its end, its start, or in its middle."""
    if len(tokens) > limit:
        if cut == "end":
            tokens = tokens[:limit]
        elif cut == "start":
            tokens = tokens[-limit:]
        else:
            head = limit // 2
            tokens = [*tokens[:head], *tokens[len(tokens) - (limit - head) :]]
    return np.asarray(tokens, dtype=np.int64)


def encode_texts(
    texts: Sequence[str], tokenizer: Tokenizer, limit: int, cut: Cut
) -> tuple[list[NDArray[np.int64]], int]:
    """Return the tokens of each text, at most ``limit``, and how many texts were cut.

    An empty text is the end-of-text token alone.
    """
    encoded = [list(ids) or [tokenizer.end_of_text] for ids in tokenizer.encode_batch(texts)]
    return [cut_tokens(ids, limit, cut) for ids in encoded], sum(len(i) > limit for i in encoded)


def cut_columns(
    parts: Sequence[Sequence[int]], between: Sequence[int], limit: int, cut: Cut
) -> tuple[NDArray[np.int64], bool]:
    """Join the tokens of columns to ``limit`` tokens at most, the longest ones cut first.

    Args:
        parts: tokens of each column.
        between: tokens that separate them.
        limit: tokens of all, separators included.
        cut: where a column is cut.

    Returns:
        The tokens, and whether any were cut.
    """
    lengths = [len(part) for part in parts]
    left = lengths_left(lengths, limit - (len(parts) - 1) * len(between))
    found: list[int] = []
    for place, (part, length) in enumerate(zip(parts, left, strict=True)):
        found += [*(between if place else ()), *(cut_tokens(part, length, cut) if length else ())]
    return np.asarray(found, dtype=np.int64), left != lengths


class LabelledBatches(OrderedBatches):
    """Texts with one target each, in a new keyed order each epoch.

    Args:
        texts: tokens of each text, at least one.
        targets: ``[n]`` classes, or numbers; ``[n, n_labels]`` 0 and 1 for any number of labels.
        batch_size: the number of samples that are padded together.
        seed: of the run; None sorts by length and shuffles nothing (validation).
        class_weights: ``[n_labels]`` weight of each class, or ``[n_labels, 2]`` of rows without and
            with each label; None weighs all equally.
        length: the length to pad all to; None pads each batch to its longest.
        ngrams: rows of the n-grams of each text, if the task has weights for them.
        copies: how many changed copies of all texts follow them, in their order.
    """

    def __init__(
        self,
        texts: Sequence[NDArray[np.int64]],
        targets: NDArray[np.int64] | NDArray[np.float64],
        batch_size: int,
        seed: int | None,
        class_weights: NDArray[np.float64] | None = None,
        length: int | None = None,
        ngrams: Sequence[NDArray[np.int32]] | None = None,
        copies: int = 0,
    ) -> None:
        self._lengths = np.array([len(text) for text in texts])
        super().__init__(self._lengths, batch_size, seed)
        self.texts, self.targets = texts, targets
        self._length, self._ngrams, self._joined = length, ngrams, copies
        self._weights: NDArray[np.float64] | None = None
        if class_weights is not None:
            classes = targets.astype(np.int64)
            several = classes.ndim == 2
            self._weights = (
                class_weights[np.arange(classes.shape[1]), classes]
                if several
                else class_weights[classes]
            )

    def batch(self, first_sample: int, n: int) -> Batch:
        """Return samples as one batch.

        ``tokens [n, longest]`` padded with 0, ``targets [n]``, ``lengths [n]``; ``ngrams
        [n, most]`` padded with 0, if there are any; and ``weights``, as many as targets, if classes
        are weighted. The batch's own is the sum over rows of their mean weight.
        """
        chosen = self.indices(first_sample, n)
        length = self._length or self._order.padded(chosen)
        weights = None if self._weights is None else self._weights[chosen]
        tensors = {
            "tokens": padded([self.texts[index] for index in chosen], length),
            "targets": torch.from_numpy(self.targets[chosen]),
            "lengths": torch.from_numpy(self._lengths[chosen]),
        }
        if self._ngrams is not None:
            ngrams = [self._ngrams[index] for index in chosen]
            tensors["ngrams"] = padded(ngrams, max(1, *map(len, ngrams)))
        if weights is None:
            return Batch(tensors, weight=n)
        total = float(weights.reshape(n, -1).mean(1).sum())
        return Batch({**tensors, "weights": torch.from_numpy(weights).float()}, weight=total)

    def shared_ngrams(self, most: int) -> NDArray[np.int32]:
        """Return the n-grams ``[n]`` of at least two texts, in ascending order.

        A text and its changed copies are one. If they are more than ``most``, those of more texts.
        """
        ngrams, texts = self._shared
        least = 2
        while np.count_nonzero(texts >= least) > most:
            least += 1
        return ngrams[texts >= least]

    def ngram_ratios(self, of: NDArray[np.int32], n_outputs: int) -> NDArray[np.float32]:
        """Return how unevenly the classes use n-grams.

        Args:
            of: ``[n]``, in ascending order.
            n_outputs: classes, or 1 for the second of two.

        Returns:
            ``[n, n_outputs]``, see ``log_count_ratios``.
        """
        ngrams = self._ngrams_of_rows
        targets = self.targets[: len(ngrams)].astype(np.int64)
        classes = n_outputs if targets.ndim == 2 else max(2, n_outputs)
        return log_count_ratios(ngrams, targets, classes, of)[:, -n_outputs:]

    @cached_property
    def _shared(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        return shared_ngrams(self._ngrams_of_rows)

    @cached_property
    def _ngrams_of_rows(self) -> Sequence[NDArray[np.int32]]:
        """Those of each text with those of its copies."""
        assert self._ngrams is not None
        if not self._joined:
            return self._ngrams
        n = len(self._ngrams) // (1 + self._joined)
        return [np.unique(np.concatenate(self._ngrams[place::n])) for place in range(n)]

    def length(self, first_sample: int, n: int) -> int:
        """Return the length that these samples are padded to as one batch."""
        return self._length or super().length(first_sample, n)


def unlabelled(
    texts: Sequence[NDArray[np.int64]],
    batch_size: int,
    ngrams: Sequence[NDArray[np.int32]] | None = None,
) -> LabelledBatches:
    """Return texts by length as batches whose targets are all 0."""
    nothing = np.zeros(len(texts), dtype=np.int64)
    return LabelledBatches(texts, nothing, batch_size, None, ngrams=ngrams)
