"""Adversarial training: each row is read a second time, moved to where its answer is worse."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wafergpt.data.batches import Batch
    from wafergpt.tasks.text_task import TextTask

SHIFT = "shift"
"""A batch's tensor ``[n, length, d_model]`` that is added to its embedded tokens."""


def adversarial_loss(task: TextTask, network: nn.Module, batch: Batch) -> Tensor:
    """Return the mean loss of rows as they are, and as they are where they are answered worse.

    The embedded tokens of a row are moved together along the gradient of its loss, by
    ``task.adversarial`` of their norms (Miyato et al., arXiv:1605.07725). The paper normalizes the
    embeddings; here each token's move is in units of its own norm.

    Args:
        task: with a loss of each row.
        network: in training.
        batch: the rows.

    Returns:
        A scalar.
    """
    import torch

    tokens, width = batch["tokens"], task.recipe.model.d_model
    here = torch.zeros(*tokens.shape, width, device=tokens.device, requires_grad=True)
    (slope,) = torch.autograd.grad(task.loss(network, _moved(batch, here)), here)
    norms = task.settings.adversarial * (batch["lengths"] * width).sqrt()
    # A row whose loss has no slope, such as one of padding, stays where it is.
    steps = norms / slope.flatten(1).norm(dim=1).clamp(min=torch.finfo(slope.dtype).tiny)
    worse = slope * steps[:, None, None]
    return (task.loss(network, batch) + task.loss(network, _moved(batch, worse))) / 2


def _moved(batch: Batch, shift: Tensor) -> Batch:
    from wafergpt.data.batches import Batch

    return Batch({**batch, SHIFT: shift}, batch.weight)
