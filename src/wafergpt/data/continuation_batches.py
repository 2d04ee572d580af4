"""Prompts and what is to be written after them, as batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from wafergpt.data.batches import Batch, Ints
from wafergpt.data.length_order import OrderedBatches

IGNORED = -100
"""Target of a token that is read and not learned."""


class ContinuationBatches(OrderedBatches):
    """Texts of which some tokens are learned, such as a prompt and its answer.

    Args:
        texts: tokens of each, at least one.
        learned: of each, ``[tokens]``, which of them are targets; the first cannot be.
        batch_size: the number of samples that are padded together.
        seed: of the run; None sorts by length and shuffles nothing (validation).
        prompts: how many first tokens of each are to be continued when outputs are computed; 0
            where nothing is. None: nowhere.
    """

    def __init__(
        self,
        texts: Sequence[Ints],
        learned: Sequence[NDArray[np.bool_]],
        batch_size: int,
        seed: int | None,
        prompts: Ints | None = None,
    ) -> None:
        # The last token is a target alone.
        lengths = np.array([max(1, len(text) - 1) for text in texts], dtype=np.int64)
        super().__init__(lengths, batch_size, seed)
        self._texts, self._learned, self._prompts = texts, learned, prompts

    def batch(self, first_sample: int, n: int) -> Batch:
        """Return samples as one batch.

        ``tokens [n, longest]`` padded with 0, and their next tokens as ``targets [n, longest]``,
        -100 where none is learned; ``prompts [n]`` if some are to be continued.
        """
        chosen = self.indices(first_sample, n)
        shape = n, self._order.padded(chosen)
        tokens = np.zeros(shape, dtype=np.int64)
        targets = np.full(shape, IGNORED, dtype=np.int64)
        for row, index in enumerate(chosen):
            text, learned = self._texts[index], self._learned[index]
            read = text[:-1] if len(text) > 1 else text
            tokens[row, : len(read)] = read
            targets[row, : len(text) - 1] = np.where(learned[1:], text[1:], IGNORED)
        tensors = {"tokens": torch.from_numpy(tokens), "targets": torch.from_numpy(targets)}
        if self._prompts is not None:
            tensors["prompts"] = torch.from_numpy(self._prompts[chosen])
        return Batch(tensors, weight=float((targets != IGNORED).sum()))
