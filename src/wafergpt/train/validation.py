"""The validation loss: the training objective, without dropout, on data that is not trained on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wafergpt.config import Recipe
from wafergpt.data.batches import Batch, Batches, parts


@torch.no_grad()
def mean_loss(
    recipe: Recipe,
    model: nn.Module,
    batches: Batches,
    forward: Callable[[Batch], Tensor],
    poll: Callable[[], None] = lambda: None,
) -> float:
    """Return the mean loss over the first batches of ``batches``, always the same ones.

    Args:
        recipe: says how many batches to look at, and of what size.
        model: what is judged; left without dropout.
        batches: of validation.
        forward: maps a batch to its summed loss.
        poll: called before each batch; it may raise.
    """
    size = recipe.train.micro_batch_size
    limit = size * recipe.evaluate.batches
    total, weight = 0.0, 0.0
    model.eval()
    for first, n in parts(0, min(limit, batches.samples_per_epoch), size):
        poll()
        batch = batches.batch(first, n)
        total += float(forward(batch))
        weight += batch.weight
    return total / weight
