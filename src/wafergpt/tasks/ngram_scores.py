"""A text's scores by the GPT and by its n-grams, and how they are added up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

PRIOR = 1.0
"""What a factor costs that is e times another than at the start, in the loss of one row: few rows
say little."""

Factors = tuple[float, float]
"""Of the GPT's scores and the n-grams' in their sum."""


def mixed(scores: Tensor, factors: Factors) -> Tensor:
    """Return scores ``[n, n_outputs]`` as they are, and add up those ``[2, n, n_outputs]``."""
    return scores if scores.ndim == 2 else factors[0] * scores[0] + factors[1] * scores[1]


def fitted_factors(
    scores: NDArray[np.float32],
    targets: NDArray[np.int64] | NDArray[np.float64],
    factors: Factors,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Factors:
    """Return the factors with the lowest loss.

    Args:
        scores: ``[n, 2, n_outputs]``.
        targets: ``[n]``.
        factors: to begin with.
        loss: the summed loss of scores ``[n, n_outputs]`` and targets.
    """
    import torch

    both, answers = torch.from_numpy(scores).double().transpose(0, 1), torch.from_numpy(targets)
    # Logarithms, for negative factors would turn a score round.
    start = torch.tensor(factors, dtype=torch.float64).log()
    logs = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logs], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        of_gpt, of_ngrams = logs.exp()
        total = loss(of_gpt * both[0] + of_ngrams * both[1], answers)
        total = (total + PRIOR * (logs - start).square().sum()) / len(answers)
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(closure)
    of_gpt, of_ngrams = logs.exp().tolist()
    return of_gpt, of_ngrams
