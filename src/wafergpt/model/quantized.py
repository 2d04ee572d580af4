"""A GPT with weights in bf16 or int8, to generate with on CPUs: each token reads all of them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wafergpt.model.gpt import GPT
from wafergpt.model.rounding import rounded_rows

Weights = Literal["fp32", "bf16", "int8"]

ALIGNED = 32
"""Torch's kernel reads so many inputs at once, also beyond the end of other numbers."""

FEW_ROWS = 4
"""Rows up to which a product with int8 weights is faster than one with a copy in bf16."""


class Bf16Linear(nn.Module):
    """A linear layer that multiplies in bf16; the bias is added in the type of its inputs."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.bfloat16(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[…, inputs]`` to ``[…, outputs]``."""
        y = F.linear(x.bfloat16(), self.weight).to(x.dtype)
        return y if self.bias is None else y + self.bias


class Int8Linear(nn.Module):
    """A linear layer whose weights are int8, each row with a scale in bf16.

    One row at a time costs what reading the weights costs, which is a quarter of fp32's. Many rows,
    as of a prompt, are multiplied in bf16 with a copy that is dropped again.
    """

    values: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        values, scales = rounded_rows(weight)
        self.register_buffer("values", values)
        self.register_buffer("scales", scales[:, 0].bfloat16())
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[…, inputs]`` to ``[…, outputs]``."""
        rows = x.bfloat16().flatten(0, -2)
        if len(rows) <= FEW_ROWS and rows.shape[1] % ALIGNED == 0:
            y = torch._weight_int8pack_mm(rows.contiguous(), self.values, self.scales)
        else:
            y = rows @ (self.values.bfloat16() * self.scales[:, None]).T
        y = y.to(x.dtype).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


def with_weights(gpt: GPT, weights: Weights) -> GPT:
    """Change the weights of a GPT that is only to be read from; return it.

    The matrices that every token is multiplied with change; embeddings, of which a token reads one
    row, and what flows between them stay in fp32. A tied head gets weights of its own. Then there
    are ``logits``, and no ``head`` for a loss.

    Args:
        gpt: in fp32, on a CPU for ``int8``.
        weights: ``fp32`` leaves it as it is.
    """
    if weights == "fp32":
        return gpt
    kind = Int8Linear if weights == "int8" else Bf16Linear
    head = gpt.head.detach()
    for block in gpt.blocks:
        for part in block.children():
            for name, layer in list(part.named_children()):
                if isinstance(layer, nn.Linear):
                    setattr(part, name, kind(layer.weight.detach(), layer.bias.detach()))
    gpt.lm_head = kind(head, None)
    return gpt
