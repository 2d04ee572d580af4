"""The validation loss: the training objective, without dropout, on data that is not trained on."""

from __future__ import annotations

import torch

from wafergpt.data.batches import Batches, parts
from wafergpt.train.loop import Loop


@torch.no_grad()
def mean_loss(loop: Loop, batches: Batches) -> float:
    """Return the mean loss over the first batches of ``batches``, always the same ones.

    Raises:
        StopRequested: if a signal came meanwhile.
    """
    recipe, model = loop.recipe, loop.state.model
    size = recipe.train.micro_batch_size
    limit = size * recipe.evaluate.batches
    total, weight = 0.0, 0.0
    model.eval()
    for first, n in parts(0, min(limit, batches.samples_per_epoch), size):
        loop.signals.poll()
        batch = batches.batch(first, n)
        total += float(loop.forward(batch))
        weight += batch.weight
    return total / weight
