"""Muon for GPUs: matrices of one shape are moved together."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
EPS = 1e-7
"""Of Newton and Schulz' iteration, as in torch's own Muon."""

MOST_ELEMENTS = 1 << 25
"""Of the matrices that are moved together, which are copied for it."""


class BatchedMuon(torch.optim.Optimizer):
    """The updates of torch's Muon (Jordan et al., 2024; arXiv:2502.16982), in fewer kernels.

    A small network has dozens of small matrices, and a GPU orthogonalizes each sooner than Python
    launches its kernels. The state is that of torch's.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

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
        averages = []
        for matrix in matrices:
            state = self.state[matrix]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(matrix)
            averages.append(state["momentum_buffer"])
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, averages, group["momentum"])
        changes = orthogonal(torch.stack([change.bfloat16() for change in ahead])).float()
        lr = group["lr"]
        torch._foreach_mul_(matrices, 1 - lr * group["weight_decay"])
        # Scaled to the size of AdamW's updates.
        factor = 0.2 * math.sqrt(max(matrices[0].shape))
        torch._foreach_add_(matrices, list(changes.unbind()), alpha=-lr * factor)


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
