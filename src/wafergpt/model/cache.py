"""Keys and values of the tokens already read, so that decoding reads each token once."""

from __future__ import annotations

import torch
from torch import Tensor

from wafergpt import config


class LayerCache:
    """One layer's keys and values, in buffers of ``context`` tokens."""

    def __init__(
        self,
        batch: int,
        model: config.Model,
        dtype: torch.dtype,
        device: torch.device,
        context: int,
    ) -> None:
        shape = (batch, model.n_heads, context, model.head_width)
        self._keys = torch.empty(shape, dtype=dtype, device=device)
        self._values = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append ``[batch, heads, length, d_head]`` and return all keys and values so far."""
        end = self.length + keys.shape[2]
        self._keys[:, :, self.length : end] = keys
        self._values[:, :, self.length : end] = values
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]

    def take(self, rows: Tensor, since: int = 0) -> None:
        """Keep the rows at these places; see ``Cache.take``."""
        read = slice(since, self.length)
        keys, values = self._keys[rows, :, read], self._values[rows, :, read]
        if len(rows) != len(self._keys):
            shape = (len(rows), *self._keys.shape[1:])
            self._keys, self._values = self._keys.new_empty(shape), self._values.new_empty(shape)
        self._keys[:, :, read], self._values[:, :, read] = keys, values


class Cache:
    """The caches of all layers.

    Attributes:
        padding: ``[batch]``, how many tokens at the start of each row stand for nothing, so that
            rows of different lengths end together; None if there are none.

    Args:
        batch: rows that are read side by side, all as long, padding included.
        model: the shape.
        dtype: of the keys and values.
        device: of the network.
        context: tokens of a row at most; those of the model if omitted.
        padding: see above.
    """

    def __init__(
        self,
        batch: int,
        model: config.Model,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        context: int | None = None,
        padding: Tensor | None = None,
    ) -> None:
        self.padding = padding
        self._recent: Tensor | None = None
        where, most = torch.device(device), context or model.seq_len
        self.layers = [LayerCache(batch, model, dtype, where, most) for _ in range(model.n_layers)]

    @property
    def length(self) -> int:
        """Number of tokens read."""
        return self.layers[0].length

    def recall(self, tokens: Tensor, count: int) -> Tensor | None:
        """Return up to ``count`` tokens ``[batch, n]`` before these, and remember these."""
        before = self._recent
        read = tokens if before is None else torch.cat((before, tokens), 1)
        self._recent = read[:, -count:]
        return before

    def take(self, rows: Tensor, since: int = 0) -> None:
        """Keep the rows at these places, in this order; one may be there several times.

        Args:
            rows: the places.
            since: how many of its first tokens each row has in common with the row that was in
                its place; 0 unless as many rows are kept.
        """
        if self._recent is not None:
            self._recent = self._recent[rows]
        if self.padding is not None:
            self.padding = self.padding[rows]
        for layer in self.layers:
            layer.take(rows, since)

    def clear(self) -> None:
        """Forget all tokens; the buffers stay."""
        self._recent = self.padding = None
        for layer in self.layers:
            layer.length = 0
