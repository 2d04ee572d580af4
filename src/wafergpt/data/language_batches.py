"""Windows over a corpus as batches of next-token prediction."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from wafergpt.data.batches import Batch, Ints, permute


class TokenStream(Protocol):
    """A sequence of tokens, read from disk on demand."""

    def __len__(self) -> int:
        """Count the tokens."""

    def take(self, start: int, length: int) -> NDArray[np.integer]:
        """Return ``length`` tokens starting at ``start``."""


class LanguageBatches:
    """Windows of ``seq_len`` tokens over a corpus, in a new keyed order each epoch.

    Args:
        stream: the tokens.
        seq_len: length of a window; its targets are shifted by one token.
        fingerprint: of the corpus; part of the key of the order.
        seed: of the run; None for one order in all epochs, of which any first windows are drawn
            from everywhere (validation).
        end_of_text: the token between documents, to keep attention inside them; None ignores them.

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
        """Return samples ``first_sample …`` as tokens and targets ``[n, seq_len]``.

        Targets of -100 do not count. With ``end_of_text``, ``documents [n, seq_len]`` numbers the
        document of each token.
        """
        windows = np.stack(
            [
                self._stream.take(place * self._seq_len, self._seq_len + 1)
                for place in self._places(np.arange(first_sample, first_sample + n))
            ]
        ).astype(np.int64)
        tokens, targets = torch.from_numpy(windows[:, :-1]), torch.from_numpy(windows[:, 1:])
        if self._end_of_text is None:
            return Batch({"tokens": tokens, "targets": targets}, weight=targets.numel())
        ends = tokens == self._end_of_text
        documents = ends.cumsum(1) - ends.long()
        # The next document cannot be predicted from the end of this one.
        targets = targets.masked_fill(ends, -100)
        tensors = {"tokens": tokens, "targets": targets, "documents": documents}
        return Batch(tensors, weight=int((targets != -100).sum()))

    def length(self, first_sample: int, n: int) -> int:
        """Return ``seq_len``."""
        return self._seq_len

    def _places(self, samples: Ints) -> Ints:
        epochs, places = np.divmod(samples, self.samples_per_epoch)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            order = "validation" if self._seed is None else f"{self._seed}/{epoch}"
            key = f"{self._fingerprint}/{order}".encode()
            places[here] = permute(places[here], self.samples_per_epoch, key)
        return places
