"""The validation loss: the training objective, without dropout, on data that is not trained on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from wafergpt.data.batches import parts

Look = Callable[[int, int], tuple[float, float]]
"""Maps a first sample, and a number of samples, to their summed loss, and to how many terms it has.
"""


@torch.no_grad()
def mean_loss(
    model: nn.Module,
    samples: int,
    at_once: int,
    look: Look,
    poll: Callable[[], None] = lambda: None,
) -> float:
    """Return the mean loss over the first ``samples``, ``at_once`` of them at a time.

    Args:
        model: what is judged; left without dropout.
        samples: how many to look at.
        at_once: in one pass.
        look: works out the loss.
        poll: called before each pass; it may raise.
    """
    total, weight = 0.0, 0.0
    model.eval()
    for first, n in parts(0, samples, at_once):
        poll()
        loss, terms = look(first, n)
        total += loss
        weight += terms
    return total / weight
