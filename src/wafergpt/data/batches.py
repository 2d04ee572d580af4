"""Batches as a pure function of (data, seed, first sample): nothing to store, nothing to lose."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


class Batch(Mapping[str, Tensor]):
    """Samples of one update, or of a part of it: named tensors whose first dimension is the sample.

    ``tokens [batch, length]`` are the ids that the model reads. A task's batches and its loss agree
    on the other tensors: next tokens or labels as ``targets``, the ``lengths`` of padded rows, the
    number of each token's document as ``documents``.

    Attributes:
        weight: how many terms the summed loss has; the loss of an update is divided by the sum over
            its batches.
    """

    def __init__(self, tensors: Mapping[str, Tensor], weight: float) -> None:
        self._tensors, self.weight = tensors, weight

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        moved = {name: value.to(device, non_blocking=True) for name, value in self.items()}
        return Batch(moved, self.weight)

    def pinned(self) -> Batch:
        """Return the batch in page-locked memory, which a GPU copies while it computes."""
        return Batch({name: value.pin_memory() for name, value in self.items()}, self.weight)


class Batches(Protocol):
    """An endless sequence of samples that is cut into batches."""

    @property
    def samples_per_epoch(self) -> int:
        """The number of samples in one epoch."""

    def batch(self, first_sample: int, n: int) -> Batch:
        """Return samples ``first_sample … first_sample + n - 1``, the same at every call."""

    def length(self, first_sample: int, n: int) -> int:
        """Return the tokens of each row of that batch, padding included, without reading it."""


def permute(index: Ints, size: int, key: bytes) -> Ints:
    """Map each index below ``size`` to its place in a shuffled order, in O(1) memory.

    A four-round Feistel network over the next even number of bits is a bijection; it is applied
    again to an index that lands outside ``size`` (cycle walking: Black and Rogaway, 2002).
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = np.uint64((1 << half) - 1)
    shift = np.uint64(half)
    digest = hashlib.blake2b(key, digest_size=32).digest()
    round_keys = np.frombuffer(digest, dtype="<u8")
    result = index.astype(np.uint64)
    walking = np.ones(len(index), dtype=bool)
    while walking.any():
        value = result[walking]
        left, right = value >> shift, value & low
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right + round_key) & low)
        result[walking] = (left << shift) | right
        walking = result >= size
    return result.astype(np.int64)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit words (the finalizer of SplitMix64; Steele et al., 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def parts(first_sample: int, n: int, micro: int) -> Iterator[tuple[int, int]]:
    """Cut ``n`` samples into runs of at most ``micro``: pairs of (first sample, count)."""
    for offset in range(0, n, micro):
        yield first_sample + offset, min(micro, n - offset)
