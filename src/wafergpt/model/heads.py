"""Task heads on a GPT."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from wafergpt.model.dropout import Dropout
from wafergpt.model.gpt import GPT
from wafergpt.shapes.parametrization import parametrization

Pooling = Literal["last", "mean", "max", "mean_max_last"]


class Classifier(nn.Module):
    """A GPT with a head that maps each text to one row of scores.

    With ``pooling="last"`` it is Hugging Face's ``GPT2ForSequenceClassification``: the hidden state
    of the last token that is not padding, through a linear layer without bias.
    """

    def __init__(self, gpt: GPT, n_outputs: int, pooling: Pooling = "last") -> None:
        super().__init__()
        self.gpt = gpt
        self.pooling = pooling
        width = gpt.config.d_model * (3 if pooling == "mean_max_last" else 1)
        self.dropout = Dropout(gpt.config.dropout)
        self.head = nn.Linear(width, n_outputs, bias=False)
        self._multiplier = parametrization(gpt.config).task_multiplier

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Map texts to scores ``[batch, n_outputs]``.

        Args:
            tokens: ``[batch, length]``, padded on the right; padding is never seen, because
                attention is causal.
            lengths: ``[batch]``, how many tokens of each row are text.
        """
        scores: Tensor = self.head(self.dropout(self.pool(self.gpt(tokens), lengths)))
        return scores * self._multiplier

    def pool(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Reduce hidden states ``[batch, length, d_model]`` to one row per text."""
        steps = torch.arange(hidden.shape[1], device=hidden.device)
        # An index of two tensors would not lower to Cerebras IR.
        last = hidden.masked_fill((steps != lengths[:, None] - 1)[..., None], 0.0).sum(1)
        if self.pooling == "last":
            return last
        text = (steps < lengths[:, None])[..., None]
        parts = []
        if self.pooling != "max":
            parts.append((hidden * text).sum(1) / lengths[:, None])
        if self.pooling != "mean":
            parts.append(hidden.masked_fill(~text, float("-inf")).amax(1))
        if self.pooling == "mean_max_last":
            parts.append(last)
        return torch.cat(parts, 1)
