"""Muon: matrices of one shape moved together, and sharded ones."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from wafergpt.distributed.sharding import Part, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
EPS = 1e-7
"""Of Newton and Schulz' iteration, as in torch's own Muon."""

MOST_ELEMENTS = 1 << 25
"""Of the matrices that are moved together, which are copied for it."""


class _Muon(torch.optim.Optimizer):
    """What both have: settings, and a state that is that of torch's.

    Args:
        groups: of matrices, each with its ``weight_decay``.
        lr: learning rate.
        momentum: share of the average that is kept.
        dtype: of the iteration. Torch's own is always in bfloat16, which a CPU without
            instructions for it multiplies twenty to fifty times as slowly as float32.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float, momentum: float, dtype: torch.dtype
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})
        self._dtype = dtype

    def _average(self, matrix: Tensor) -> Tensor:
        """Return the average of a matrix's gradients, zeros at first."""
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        average: Tensor = state["momentum_buffer"]
        return average


class BatchedMuon(_Muon):
    """The updates of torch's Muon (Jordan et al., 2024; arXiv:2502.16982), in fewer kernels.

    A small network has dozens of small matrices, and a GPU orthogonalizes each sooner than Python
    launches its kernels.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move the matrices that have a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in by_shape.items():
                size = max(1, MOST_ELEMENTS // shape.numel())
                for first in range(0, len(matrices), size):
                    self._move(matrices[first : first + size], group)

    def _move(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        averages = [self._average(matrix) for matrix in matrices]
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, averages, group["momentum"])
        changes = orthogonal(torch.stack([change.to(self._dtype) for change in ahead])).float()
        lr = group["lr"]
        torch._foreach_mul_(matrices, 1 - lr * group["weight_decay"])
        step = -lr * scale(matrices[0].shape)
        torch._foreach_add_(matrices, list(changes.unbind()), alpha=step)


class ShardedMuon(_Muon):
    """Muon for sharded matrices: the gradient of each is all-gathered for its update.

    Momentum stays sharded. Every process computes the whole update and keeps its rows.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move the weights."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        momentum, lr = group["momentum"], group["lr"]
        average = self._average(parameter).lerp_(parameter.grad, 1 - momentum)
        ahead = whole(parameter.grad.lerp(average, momentum))
        change = orthogonal(ahead[None].to(self._dtype))[0].float()
        part = Part.of(parameter)
        part.values.mul_(1 - lr * group["weight_decay"])
        part.values.sub_(part.cut(change), alpha=lr * scale(parameter.shape))


def scale(shape: torch.Size) -> float:
    """Return the factor that gives an update the size of AdamW's (arXiv:2502.16982)."""
    return 0.2 * math.sqrt(max(shape))


def orthogonal(matrices: Tensor) -> Tensor:
    """Return matrices ``[n, rows, columns]`` with singular values near 1, by Newton and Schulz."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=EPS)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
