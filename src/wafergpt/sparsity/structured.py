"""Taking whole heads and channels out of a block, with the rest refitted."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wafergpt.model.gpt import Attention, FeedForward

DAMPING = 1e-5
"""Share of the mean square of an input that is added to each, as every least-squares fit needs."""


def cut_heads(attention: Attention, kept: Tensor, gram: Tensor) -> None:
    """Keep some heads.

    Args:
        attention: which is changed.
        kept: numbers of the heads, ascending.
        gram: of the inputs of its ``out`` and of a 1, as of ``refitted``.
    """
    width = attention.n_heads * attention.d_head
    columns = torch.arange(width).view(attention.n_heads, attention.d_head)[kept].flatten()
    rows = torch.cat([part * width + columns for part in range(3)])
    attention.qkv = _rows_of(attention.qkv, rows)
    attention.out = refitted(attention.out, columns, gram)
    attention.n_heads = len(kept)


def cut_channels(ffn: FeedForward, kept: Tensor, gram: Tensor) -> None:
    """Keep some channels between the two layers.

    Args:
        ffn: which is changed.
        kept: numbers of the channels, ascending.
        gram: of the inputs of its ``out`` and of a 1, as of ``refitted``.
    """
    ffn.up = _rows_of(ffn.up, kept)
    ffn.out = refitted(ffn.out, kept, gram)


def refitted(linear: nn.Linear, kept: Tensor, gram: Tensor) -> nn.Linear:
    """Return a layer that reads some of the inputs, and comes closest to what it computed from all.

    It is the least-squares solution over the inputs that ``gram`` sums up, bias included.

    Args:
        linear: with ``n`` inputs.
        kept: numbers of its inputs.
        gram: ``[n + 1, n + 1]`` sums of XXᵀ over inputs X with a 1 after them, in fp64.
    """
    kept = torch.cat([kept, torch.tensor([linear.in_features])])
    weights = torch.cat([linear.weight, linear.bias[:, None]], 1).detach().cpu().double()
    few = gram[kept][:, kept].clone()
    few.diagonal().add_(DAMPING * few.diagonal().mean())
    found = torch.linalg.solve(few, gram[kept] @ weights.T).T
    return _linear(found[:, :-1], found[:, -1], linear)


def _rows_of(linear: nn.Linear, rows: Tensor) -> nn.Linear:
    return _linear(linear.weight.detach()[rows], linear.bias.detach()[rows], linear)


def _linear(weight: Tensor, bias: Tensor, like: nn.Linear) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0]).to(like.weight)
    with torch.no_grad():
        made.weight.copy_(weight)
        made.bias.copy_(bias)
    return made
