"""Labelled texts with a changed copy of each beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from wafergpt.data.batches import Batch
from wafergpt.data.labelled_batches import LabelledBatches
from wafergpt.data.length_order import padded

CHANGED = "changed_"
"""Begins the names of the tensors of the copies."""


class Copies(NamedTuple):
    """Changed copies of all texts.

    Attributes:
        texts: tokens of each.
        ngrams: rows of the n-grams of each, if the task has weights for them.
    """

    texts: Sequence[NDArray[np.int64]]
    ngrams: Sequence[NDArray[np.int32]] | None


class PairedBatches(LabelledBatches):
    """Texts, each with one of its changed copies: another one each epoch.

    Args:
        copies: of all texts, one or several times.
        given: what ``LabelledBatches`` takes.
        named: likewise.
    """

    def __init__(self, copies: Sequence[Copies], *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._copies = copies

    def batch(self, first_sample: int, n: int) -> Batch:
        """Return samples as one batch, with the copies' tensors beside those of the texts.

        ``changed_tokens [n, longest copy]``, ``changed_lengths [n]``, ``changed_ngrams``.
        """
        batch = super().batch(first_sample, n)
        epochs = np.arange(first_sample, first_sample + n) // self.samples_per_epoch
        pairs = [
            (self._copies[epoch % len(self._copies)], index)
            for epoch, index in zip(epochs.tolist(), self.indices(first_sample, n), strict=True)
        ]
        texts = [copy.texts[index] for copy, index in pairs]
        lengths = list(map(len, texts))
        tensors = {
            **batch,
            f"{CHANGED}tokens": padded(texts, max(lengths)),
            f"{CHANGED}lengths": torch.tensor(lengths),
        }
        ngrams = [copy.ngrams[index] for copy, index in pairs if copy.ngrams is not None]
        if ngrams:
            tensors[f"{CHANGED}ngrams"] = padded(ngrams, max(1, *map(len, ngrams)))
        return Batch(tensors, batch.weight)


def changed_of(batch: Batch) -> Batch | None:
    """Return the copies of a batch as one of their own, with its targets; None without copies."""
    found = {
        name.removeprefix(CHANGED): tensor
        for name, tensor in batch.items()
        if name.startswith(CHANGED)
    }
    if not found:
        return None
    kept = {name: batch[name] for name in ("targets", "weights") if name in batch}
    return Batch({**kept, **found}, batch.weight)
