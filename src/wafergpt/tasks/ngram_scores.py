"""A text's scores by the GPT and by its n-grams, and how they are added up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from wafergpt.logs import say

if TYPE_CHECKING:
    from torch import Tensor

_Factor = Annotated[float, Field(gt=0, le=1e6)]

Factors = tuple[_Factor, _Factor]
"""Of the GPT's scores and the n-grams' in their sum."""

START: Factors = (0.4, 0.8)
"""Factors of classes' scores, until they are fitted."""

EXPECTED: Factors = (0.2, 0.8)
"""About the geometric mean of the best ones for five labelled sets of 500 rows, from which few
validation rows pull them away: a GPT that has read them often is too certain."""

PRIOR = 1.0
"""What a factor costs that is e times another than expected, in the cross-entropy of one row: few
rows say little."""


def mixed(scores: Tensor, factors: Factors) -> Tensor:
    """Return scores ``[n, n_outputs]`` as they are, and add up those ``[2, n, …]``."""
    return scores if scores.ndim == 2 else factors[0] * scores[0] + factors[1] * scores[1]


def mean_of_each(scores: Iterable[Tensor], loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the mean of the losses of several scores, each by itself.

    Trained together, one would stop where the other has learned the rows by heart.
    """
    losses = [loss(one) for one in scores]
    return sum(losses[1:], losses[0]) / len(losses)


def fitted_factors(
    scores: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> Factors:
    """Fit the factors to the lowest loss; they depend on nothing but the arguments.

    Args:
        scores: ``[2, n, n_outputs]``.
        targets: ``[n]``.
        loss: the summed cross-entropy of scores ``[n, n_outputs]`` and targets.

    Returns:
        The factors; those of the start if scores are not finite.
    """
    import torch

    expected = torch.tensor(EXPECTED, dtype=torch.float64).log()
    # Logarithms, for negative factors would turn a score round.
    logs = expected.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logs], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        of_gpt, of_ngrams = logs.exp()
        total = loss(of_gpt * scores[0] + of_ngrams * scores[1], targets)
        total = (total + PRIOR * (logs - expected).square().sum()) / len(targets)
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(closure)
    of_gpt, of_ngrams = logs.exp().tolist()
    if not (0 < of_gpt < math.inf and 0 < of_ngrams < math.inf):
        say("warning: the scores of validation rows are not finite; task.factors stay as they were")
        return START
    return of_gpt, of_ngrams
