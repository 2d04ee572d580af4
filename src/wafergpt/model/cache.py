"""Keys and values of the tokens already read, so that decoding reads each token once."""

from __future__ import annotations

import torch
from torch import Tensor

from wafergpt import config


class LayerCache:
    """One layer's keys and values, in buffers of the full context."""

    def __init__(
        self, batch: int, model: config.Model, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (batch, model.n_heads, model.seq_len, model.head_width)
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


class Cache:
    """The caches of all layers."""

    def __init__(
        self,
        batch: int,
        model: config.Model,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self._recent: Tensor | None = None
        where = torch.device(device)
        self.layers = [LayerCache(batch, model, dtype, where) for _ in range(model.n_layers)]

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

    def clear(self) -> None:
        """Forget all tokens; the buffers stay."""
        self._recent = None
        for layer in self.layers:
            layer.length = 0
