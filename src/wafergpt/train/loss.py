"""Losses, each a sum over its terms: the loop divides by the weight of the whole global batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK_ROWS = 256
"""Tokens whose logits are held at once: few enough for the cache where the vocabulary is small,
and enough that adding to the head's gradient costs little beside the products."""


def next_token_loss(hidden: Tensor, weight: Tensor, targets: Tensor, compiled: bool) -> Tensor:
    """Return the summed cross-entropy of the next tokens without ever holding all logits.

    The gradient of each chunk is formed while its logits are there, so that nothing of vocabulary
    size outlives its chunk but the gradient of the head itself.

    Args:
        hidden: ``[batch, length, d_model]`` states after the last norm.
        weight: ``[vocab_size, d_model]`` of the head.
        targets: ``[batch, length]`` next tokens; -100 is left out of the sum.
        compiled: use the compiled softmax kernel.
    """
    loss: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden.flatten(0, -2), weight, targets.flatten(), compiled
    )
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, compiled: bool
    ) -> Tensor:
        device = hidden.device.type
        dtype = hidden.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        softmax, add = _compiled_kernels() if compiled else (softmax_gradient, Tensor.add_)
        differentiable = hidden.requires_grad or weight.requires_grad
        head = weight.detach().to(dtype)
        states = hidden.detach().to(dtype)
        total = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(states) if differentiable else None
        grad_weight = torch.zeros_like(weight) if differentiable else None
        for start in range(0, len(states), CHUNK_ROWS):
            chunk = states[start : start + CHUNK_ROWS]
            loss, gradient = softmax(chunk @ head.T, targets[start : start + CHUNK_ROWS])
            total += loss
            if grad_hidden is not None and grad_weight is not None:
                torch.mm(gradient, head, out=grad_hidden[start : start + CHUNK_ROWS])
                add(grad_weight, gradient.T @ chunk)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.hidden_dtype = hidden.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        (scale,) = grads
        return (grad_hidden * scale).to(ctx.hidden_dtype), grad_weight.mul_(scale), None, None


def softmax_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy in fp32 and its gradient in the logits' own type.

    Args:
        logits: ``[rows, vocab_size]``.
        targets: ``[rows]``; -100 is left out.
    """
    there = targets != -100
    target = torch.where(there, targets, 0)[:, None]
    values = logits.log_softmax(1, dtype=torch.float32)
    loss = -(values.gather(1, target)[:, 0] * there).sum()
    # In place: what is left of the time is memory traffic.
    gradient = values.exp_()
    gradient.scatter_add_(1, target, -torch.ones_like(target, dtype=torch.float32))
    return loss, gradient.mul_(there[:, None]).to(logits.dtype)


@cache
def _compiled_kernels() -> tuple[
    Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], Callable[[Tensor, Tensor], Tensor]
]:
    # Uncompiled, adding bf16 to fp32 copies the whole addend first.
    return torch.compile(softmax_gradient, dynamic=False), torch.compile(_add, dynamic=False)


def _add(total: Tensor, part: Tensor) -> Tensor:
    return total.add_(part)


def classification_loss(
    scores: Tensor,
    targets: Tensor,
    kind: str = "cross_entropy",
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the summed loss of one answer a row.

    Args:
        scores: ``[batch, n_labels]``; ``[batch, 1]`` for ``binary`` and ``squared_error``.
        targets: ``[batch]`` classes, or numbers for ``squared_error``.
        kind: ``cross_entropy``, ``binary`` (of class 1 against class 0) or ``squared_error``.
        label_smoothing: share of the target that is spread over all classes.
        weights: ``[batch]`` weight of each row.
    """
    scores = scores.float()
    if kind == "squared_error":
        losses = (scores[:, 0] - targets) ** 2
    elif kind == "binary":
        wanted = targets.float() * (1 - label_smoothing) + label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(scores[:, 0], wanted, reduction="none")
    else:
        losses = F.cross_entropy(scores, targets, reduction="none", label_smoothing=label_smoothing)
    return (losses if weights is None else losses * weights).sum()
