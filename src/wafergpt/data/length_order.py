"""Samples in an order of similar length, and what all batches of that order have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from wafergpt.data.batches import Batch, Ints, permute

POOL_BATCHES = 64
"""Batches whose samples are sorted by length together: well shuffled, with little padding."""

ROUND = 32
"""Lengths are padded to a multiple of this, so that kernels see few shapes."""


def padded(rows: Sequence[NDArray[np.integer]], length: int) -> torch.Tensor:
    """Return rows of whole numbers, each ``[n, …]``, as ``[rows, length, …]``, padded with 0."""
    found = np.zeros((len(rows), length, *rows[0].shape[1:]), dtype=np.int64)
    for place, row in enumerate(rows):
        found[place, : len(row)] = row
    return torch.from_numpy(found)


class LengthOrder:
    """Samples of similar length next to each other, in a new keyed order each epoch.

    Args:
        lengths: ``[n]`` tokens of each sample.
        batch_size: the number of samples that are padded together.
        seed: of the run; None sorts by length and shuffles nothing (validation).
    """

    def __init__(self, lengths: Ints, batch_size: int, seed: int | None) -> None:
        self._lengths, self._batch_size, self._seed = lengths, batch_size, seed
        self._epoch = lru_cache(maxsize=2)(self._ordered)

    def indices(self, first_sample: int, n: int) -> Ints:
        """Return the places in ``lengths`` of samples ``first_sample …``."""
        samples = np.arange(first_sample, first_sample + n)
        epochs, places = np.divmod(samples, len(self._lengths))
        return np.array(
            [self._epoch(int(e))[p] for e, p in zip(epochs, places, strict=True)], dtype=np.int64
        )

    def padded(self, chosen: Ints) -> int:
        """Return the length that samples are padded to together."""
        longest = -(-int(self._lengths[chosen].max()) // ROUND) * ROUND
        return min(longest, int(self._lengths.max()))

    def _ordered(self, epoch: int) -> Ints:
        n, size = len(self._lengths), self._batch_size
        if self._seed is None:
            return np.argsort(self._lengths, kind="stable")
        order = permute(np.arange(n), n, f"{self._seed}/{epoch}".encode())
        batches: list[Ints] = []
        for start in range(0, n, size * POOL_BATCHES):
            pool = order[start : start + size * POOL_BATCHES]
            pool = pool[np.argsort(self._lengths[pool], kind="stable")]
            batches += [pool[i : i + size] for i in range(0, len(pool), size)]
        # A short batch stays last, so that the others align with steps.
        last = [batches.pop()] if len(batches[-1]) < size else []
        shuffled = permute(np.arange(len(batches)), max(len(batches), 1), f"{epoch}".encode())
        return np.concatenate([*(batches[i] for i in shuffled), *last])


class OrderedBatches(ABC):
    """Batches of samples that are padded to the longest of them.

    Args:
        lengths: ``[n]`` tokens of each sample.
        batch_size: the number of samples that are padded together.
        seed: of the run; None sorts by length and shuffles nothing (validation).
    """

    def __init__(self, lengths: Ints, batch_size: int, seed: int | None) -> None:
        self.samples_per_epoch = len(lengths)
        self._order = LengthOrder(lengths, batch_size, seed)

    def indices(self, first_sample: int, n: int) -> Ints:
        """Return the places of samples ``first_sample …`` in the order that they were given in."""
        return self._order.indices(first_sample, n)

    def length(self, first_sample: int, n: int) -> int:
        """Return the length that these samples are padded to as one batch."""
        return self._order.padded(self.indices(first_sample, n))

    @abstractmethod
    def batch(self, first_sample: int, n: int) -> Batch:
        """Return samples ``first_sample … first_sample + n - 1``, the same at every call."""
