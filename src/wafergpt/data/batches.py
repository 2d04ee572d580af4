"""Batches as a pure function of (corpus, seed, first sample): nothing to store, nothing to lose."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Samples of one step, or of a part of it.

    Attributes:
        tokens: ``[batch, length]`` ids that the model reads.
        targets: ``[batch, length]`` next tokens (-100: none), or ``[batch]`` answers.
        weight: how many terms the summed loss has.
        lengths: ``[batch]`` how many tokens are text, where rows are padded.
        documents: ``[batch, length]`` document numbers, where attention stays inside documents.
        weights: ``[batch]`` weight of each answer, where classes are weighted.
    """

    tokens: Tensor
    targets: Tensor
    weight: float
    lengths: Tensor | None = None
    documents: Tensor | None = None
    weights: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        tensors: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **tensors)


class Batches(Protocol):
    """An endless sequence of samples that is cut into batches."""

    @property
    def samples_per_epoch(self) -> int:
        """How many samples there are before they come again."""

    def batch(self, first_sample: int, n: int) -> Batch:
        """Return samples ``first_sample … first_sample + n - 1``, the same at every call."""


class TokenStream(Protocol):
    """Tokens one after another, read from disk where they are asked for."""

    def __len__(self) -> int:
        """Count the tokens."""

    def take(self, start: int, length: int) -> NDArray[np.integer]:
        """Return ``length`` tokens from ``start`` on."""


def permute(index: Ints, size: int, key: bytes) -> Ints:
    """Map each index below ``size`` to its place in a shuffled order, in O(1) memory.

    A four-round Feistel network over the next even number of bits is a bijection; an index that
    lands outside ``size`` walks on until it is inside (cycle walking: Black and Rogaway, 2002).
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


class LanguageBatches:
    """Windows of ``seq_len`` tokens over a corpus, in a new keyed order each epoch.

    Args:
        stream: the tokens.
        seq_len: length of a window; its targets are the tokens one place on.
        fingerprint: of the corpus; part of the key of the order.
        seed: of the run; None keeps the windows in their own order (validation).
        end_of_text: the token between documents, to keep attention inside them; else None.

    Raises:
        ValueError: if the stream is shorter than one window.
    """

    def __init__(
        self,
        stream: TokenStream,
        seq_len: int,
        fingerprint: str,
        seed: int | None,
        end_of_text: int | None = None,
    ) -> None:
        self.samples_per_epoch = (len(stream) - 1) // seq_len
        if self.samples_per_epoch < 1:
            raise ValueError(f"{len(stream)} tokens are less than one sequence of {seq_len}")
        self._stream, self._seq_len, self._seed = stream, seq_len, seed
        self._fingerprint, self._end_of_text = fingerprint, end_of_text

    def batch(self, first_sample: int, n: int) -> Batch:
        """Return samples ``first_sample …``: tokens and targets ``[n, seq_len]``."""
        windows = np.stack(
            [
                self._stream.take(place * self._seq_len, self._seq_len + 1)
                for place in self._places(np.arange(first_sample, first_sample + n))
            ]
        ).astype(np.int64)
        tokens, targets = torch.from_numpy(windows[:, :-1]), torch.from_numpy(windows[:, 1:])
        if self._end_of_text is None:
            return Batch(tokens, targets, weight=targets.numel())
        ends = tokens == self._end_of_text
        documents = ends.cumsum(1) - ends.long()
        # What follows the end of a document cannot be told from it.
        targets = targets.masked_fill(ends, -100)
        weight = int((targets != -100).sum())
        return Batch(tokens, targets, weight, documents=documents)

    def _places(self, samples: Ints) -> Ints:
        epochs, places = np.divmod(samples, self.samples_per_epoch)
        if self._seed is None:
            return places
        for epoch in np.unique(epochs):
            here = epochs == epoch
            key = f"{self._fingerprint}/{self._seed}/{epoch}".encode()
            places[here] = permute(places[here], self.samples_per_epoch, key)
        return places


def parts(first_sample: int, n: int, micro: int) -> Iterator[tuple[int, int]]:
    """Cut ``n`` samples into runs of at most ``micro``: pairs of (first sample, count)."""
    for offset in range(0, n, micro):
        yield first_sample + offset, min(micro, n - offset)
