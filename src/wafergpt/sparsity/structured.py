"""Taking heads and channels out of blocks, and channels out of the stream; the rest is refitted."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from wafergpt.model.gpt import Attention, FeedForward

DAMPING = 1e-5
"""Share of the mean square of an input by which a least-squares fit holds on to what is there."""


def largest_ones(importance: Tensor, n: int) -> Tensor:
    """Return the numbers of the ``n`` largest, ascending."""
    return importance.argsort(descending=True, stable=True)[:n].sort().values.cpu()


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
    cut = _linear(linear.weight.detach()[:, kept], linear.bias.detach(), linear)
    weights = torch.cat([linear.weight, linear.bias[:, None]], 1).detach().cpu().double()
    kept = torch.cat([kept, torch.tensor([linear.in_features])])
    return fitted(cut, gram[kept][:, kept], gram[kept] @ weights.T)


def fitted(linear: nn.Linear, gram: Tensor, cross: Tensor) -> nn.Linear:
    """Return a layer that comes closest to given outputs, by least squares, bias included.

    Args:
        linear: what the layer is where its inputs say nothing.
        gram: ``[n + 1, n + 1]`` sums of XXᵀ over its inputs X with a 1 after them, in fp64.
        cross: ``[n + 1, outputs]`` sums of XYᵀ with the outputs that it shall have.
    """
    weights = torch.cat([linear.weight, linear.bias[:, None]], 1).detach().cpu().double()
    damping = DAMPING * gram.diagonal().mean()
    damped = gram + damping * torch.eye(len(gram))
    found = torch.linalg.solve(damped, cross + damping * weights.T).T
    return _linear(found[:, :-1], found[:, -1], linear)


def without_channels(
    weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], kept: Tensor
) -> dict[str, Tensor]:
    """Take channels of the residual stream out of all weights of a network.

    Args:
        weights: by name.
        shapes: of the same network with as many channels as are kept. What differs from its weights
            now is as wide as the stream, or several times as wide, as a head that reads several
            pooled states after another.
        kept: numbers of the channels, ascending.
    """
    found = dict(weights)
    for name, shape in shapes.items():
        for axis, (there, left) in enumerate(zip(weights[name].shape, shape, strict=True)):
            if there != left:
                times = left // len(kept)
                places = torch.cat([part * (there // times) + kept for part in range(times)])
                found[name] = found[name].index_select(axis, places.to(found[name].device))
    return found


def _rows_of(linear: nn.Linear, rows: Tensor) -> nn.Linear:
    return _linear(linear.weight.detach()[rows], linear.bias.detach()[rows], linear)


def _linear(weight: Tensor, bias: Tensor, like: nn.Linear) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0]).to(like.weight)
    with torch.no_grad():
        made.weight.copy_(weight)
        made.bias.copy_(bias)
    return made
