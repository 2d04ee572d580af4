"""Matrices rounded to int8, for checkpoints, generation and exports."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_SCALE = 1e-12
"""Of a row's largest weight: a row of zeros stays one."""


def rounded_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a matrix to int8, each row by a scale of its own.

    Args:
        weight: ``[rows, columns]``.

    Returns:
        ``[rows, columns]`` in int8, and the scales ``[rows, 1]`` to multiply them with.
    """
    scales = weight.abs().amax(1, keepdim=True).clamp(min=LEAST_SCALE) / 127
    return (weight / scales).round().to(torch.int8), scales
