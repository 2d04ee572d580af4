"""Low-rank adapters beside frozen matrices (Hu et al., arXiv:2106.09685)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wafergpt import config
from wafergpt.config.sparsity import SparseRole as BlockRole
from wafergpt.model.gpt import GPT, Block

A, B = "lora_a", "lora_b"
"""Names of an adapter's matrices beside ``weight`` and ``bias``, which keep theirs."""


class LoraLinear(nn.Linear):
    """A linear layer x·Wᵀ + b + scale · (x·Aᵀ)·Bᵀ, whose W and b are frozen.

    Args:
        linear: the layer, whose W and b it takes.
        rank: rows of A ``[rank, in_features]`` and columns of B ``[out_features, rank]``.
        scale: of their product.
    """

    def __init__(self, linear: nn.Linear, rank: int, scale: float) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias, self.scale = linear.weight, linear.bias, scale
        self.lora_a = nn.Parameter(torch.empty(rank, linear.in_features))
        self.lora_b = nn.Parameter(torch.empty(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[…, in_features]`` to ``[…, out_features]``."""
        # The scale is on the narrowest tensor.
        return super().forward(x) + F.linear(F.linear(x, self.lora_a) * self.scale, self.lora_b)


def add_adapters(gpt: GPT, lora: config.Lora) -> set[str]:
    """Freeze a GPT, and give the matrices of ``lora.roles`` adapters, not initialized.

    Returns:
        The names of what is frozen.
    """
    frozen = set(gpt.requires_grad_(False).state_dict())
    for block in gpt.blocks:
        assert isinstance(block, Block)
        places: Mapping[BlockRole, tuple[nn.Module, str]] = {
            "qkv": (block.attention, "qkv"),
            "attention_out": (block.attention, "out"),
            "ffn_in": (block.ffn, "up"),
            "ffn_out": (block.ffn, "out"),
        }
        for role in lora.roles:
            module, name = places[role]
            setattr(module, name, LoraLinear(getattr(module, name), lora.rank, lora.scale))
    return frozen
