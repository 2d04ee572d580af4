"""Choosing the next token."""

from __future__ import annotations

import torch
from torch import Tensor

from wafergpt.errors import RunFailed

REACHED = 1e-12
"""A probability that any most likely token has."""


def sample(
    logits: Tensor,
    generator: torch.Generator,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Tensor:
    """Draw one token a row.

    However small or large, each setting does what its limit would.

    Args:
        logits: ``[batch, vocab_size]``.
        generator: source of randomness, on the logits' device.
        temperature: divides the logits; 0 takes the most likely token.
        top_k: only the k most likely tokens; 0 for all.
        top_p: only the most likely tokens that together reach this probability
            (arXiv:1904.09751); 1 for all, 0 for the most likely one.

    Returns:
        Token ids ``[batch]``.

    Raises:
        RunFailed: if the logits are no numbers to choose by.
    """
    logits = logits.float()
    largest = logits.amax(-1, keepdim=True)
    if not bool(largest.isfinite().all()):
        raise RunFailed("the model's logits are not finite: its weights are damaged, or diverged")
    limits = torch.finfo(logits.dtype)
    # Below it a number loses its digits, and on some devices is 0.
    if temperature < limits.tiny or top_k == 1 or top_p < REACHED:
        return logits.argmax(-1)
    # None is above 0, so that none becomes infinite.
    logits = (logits - largest) / min(temperature, limits.max)
    if 0 < top_k < logits.shape[-1]:
        smallest = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    if top_p < 1:
        ordered, order = logits.sort(descending=True)
        probabilities = ordered.softmax(-1)
        # Only the probability before a token counts, so that the first one always stays.
        beyond = probabilities.cumsum(-1) - probabilities >= top_p
        beyond[:, 0] = False
        logits = logits.scatter(-1, order, ordered.masked_fill(beyond, float("-inf")))
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
