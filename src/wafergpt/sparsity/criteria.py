"""Which weights of a trained matrix can be zero: magnitude, Wanda, SparseGPT.

A matrix is ``[fan_out, fan_in]``. Its inputs are summed up in ``gram``, XXᵀ ``[fan_in, fan_in]``
over all calibration tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from wafergpt.sparsity.masks import largest

Method = Literal["magnitude", "wanda", "sparsegpt"]

COLUMNS = 128
"""Columns of a matrix that SparseGPT treats at once (the paper's block size)."""

DAMPING = 0.01
"""Added to the Hessian's diagonal, as a share of its mean (the paper's)."""

KEPT, GROUP = 2, 4
"""Of the pattern 2:4."""


def magnitude(weights: Mapping[str, Tensor], sparsity: float, together: bool) -> dict[str, Tensor]:
    """Return masks of the largest weights.

    Args:
        weights: by name.
        sparsity: the share of zeros.
        together: rank the weights of all matrices together, not of each apart.
    """
    sizes = {name: matrix.abs() for name, matrix in weights.items()}
    if not together:
        return {name: largest(s, _kept(s.numel(), sparsity)) for name, s in sizes.items()}
    joined = torch.cat([size.flatten() for size in sizes.values()])
    mask = largest(joined, _kept(joined.numel(), sparsity))
    parts = mask.split([size.numel() for size in sizes.values()])
    return {
        name: part.view(size.shape) for (name, size), part in zip(sizes.items(), parts, strict=True)
    }


def wanda(matrix: Tensor, gram: Tensor, sparsity: float) -> Tensor:
    """Return a mask by |W|·‖X‖₂, ranked within each row (Sun et al., arXiv:2306.11695)."""
    scores = matrix.abs() * gram.diagonal().sqrt().to(matrix)
    order = scores.argsort(dim=1, descending=True, stable=True)
    mask = torch.zeros_like(matrix, dtype=torch.bool)
    return mask.scatter_(1, order[:, : _kept(matrix.shape[1], sparsity)], True)


def two_of_four(scores: Tensor) -> Tensor:
    """Return a mask of the two largest scores of each four inputs; fan_in divides by four."""
    order = scores.unflatten(1, (-1, GROUP)).argsort(dim=2, descending=True, stable=True)
    mask = torch.zeros(order.shape, dtype=torch.bool, device=scores.device)
    return mask.scatter_(2, order[..., :KEPT], True).flatten(1)


def sparsegpt(
    matrix: Tensor, gram: Tensor, sparsity: float, *, pattern: bool = False
) -> tuple[Tensor, Tensor]:
    """Prune column by column, and have the later columns make up for it (arXiv:2301.00774).

    Args:
        matrix: to prune.
        gram: of its inputs.
        sparsity: the share of zeros.
        pattern: zeros by 2:4, whatever ``sparsity``.

    Returns:
        The new matrix, and the mask of what is kept.
    """
    inverse = _inverse_factor(gram.double())
    new, gone = matrix.double().clone(), matrix == 0
    new[:, gram.diagonal() == 0] = 0
    mask = torch.ones_like(matrix, dtype=torch.bool)
    for first in range(0, matrix.shape[1], COLUMNS):
        part = slice(first, min(first + COLUMNS, matrix.shape[1]))
        factor, errors = inverse[part, part], torch.zeros_like(new[:, part])
        # Zeros stay: what others leave them to make up for goes on to the next ones.
        scores = (new[:, part] / factor.diagonal()).square().masked_fill(gone[:, part], -1.0)
        if not pattern:
            mask[:, part] = largest(scores, _kept(scores.numel(), sparsity))
        for column in range(part.stop - first):
            place = first + column
            if pattern and column % GROUP == 0:
                group = slice(place, place + GROUP)
                now = (new[:, group] / factor.diagonal()[column : column + GROUP]).square()
                mask[:, group] = two_of_four(now.masked_fill(gone[:, group], -1.0))
            mask[:, place] &= ~gone[:, place]
            lost = torch.where(mask[:, place], 0.0, new[:, place]) / factor[column, column]
            new[:, place : part.stop] -= lost[:, None] * factor[column, column:]
            new[:, place] *= mask[:, place]
            errors[:, column] = lost
        new[:, part.stop :] -= errors @ inverse[part, part.stop :]
    return (new * mask).to(matrix), mask


def _inverse_factor(hessian: Tensor) -> Tensor:
    """Return the upper Cholesky factor of the damped Hessian's inverse."""
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    # An input that is always 0.
    damped = hessian + torch.diag(dead.to(hessian) + DAMPING * diagonal.mean())
    factor: Tensor = torch.linalg.cholesky(damped)
    upper: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)
    return upper


def _kept(n: int, sparsity: float) -> int:
    return max(1, round((1.0 - sparsity) * n))
