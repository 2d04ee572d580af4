"""Losses, each a sum over its terms: the engine divides by the weight of the global batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wafergpt.planning.memory import head_chunk_rows

SIZES = 64
"""How many sizes a sampled softmax may have."""

ALIGNED = 64
"""Columns of logits on a GPU are a multiple of it."""


@dataclass(frozen=True)
class SoftTargets:
    """Distributions over the vocabulary that are learned beside the next tokens.

    Attributes:
        hidden: ``[batch, length, width]`` states of another model, as its head reads them.
        weight: ``[vocab_size, width]`` of its head.
        share: of the loss that is the KL divergence from these distributions.
    """

    hidden: Tensor
    weight: Tensor
    share: float


def next_token_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, soft: SoftTargets | None = None
) -> Tensor:
    """Return the summed cross-entropy of the next tokens without ever holding all logits.

    The gradient of each chunk is computed together with its logits, so that nothing of vocabulary
    size outlives its chunk except the gradient of the head itself.

    Args:
        hidden: ``[batch, length, d_model]`` states after the last norm.
        weight: ``[vocab_size, d_model]`` of the head.
        targets: ``[batch, length]`` next tokens; -100 is not counted.
        soft: what a share of the loss is the divergence from.
    """
    return _summed(hidden, weight, targets, None, soft)


def sampled_softmax_loss(hidden: Tensor, weight: Tensor, targets: Tensor, sample: int) -> Tensor:
    """Return an estimate of ``next_token_loss`` from a part of the vocabulary.

    The batch's own targets enter every softmax as they are. The rest of the vocabulary is
    represented by ``sample`` tokens, drawn uniformly by torch's global generator and weighted by
    the number that each represents: given the batch, every sum over the vocabulary is unbiased, but
    for the rounding of that number's logarithm, in bf16 to 0.8% of the sum. After Jean et al.
    (arXiv:1412.2007), who correct by a proposal's probabilities instead.

    Args:
        hidden: ``[batch, length, d_model]`` states after the last norm.
        weight: ``[vocab_size, d_model]`` of the head.
        targets: ``[batch, length]`` next tokens; -100 is not counted.
        sample: tokens besides the targets, at least; all of them give the exact loss.
    """
    vocab_size = len(weight)
    own = _own_tokens(targets, vocab_size)
    rest = (~own).nonzero()[:, 0]
    more = _rows(vocab_size - len(rest), vocab_size, sample) - (vocab_size - len(rest))
    drawn = rest[torch.randperm(len(rest))[:more].to(rest.device)]
    tokens = torch.cat((own.nonzero()[:, 0], drawn))
    place = torch.full((vocab_size,), -100, device=weight.device)
    place[tokens] = torch.arange(len(tokens), device=weight.device)
    shift = torch.zeros(len(tokens), device=weight.device)
    shift[len(tokens) - len(drawn) :] = math.log(max(len(rest), 1) / max(len(drawn), 1))
    ignored = targets == -100
    places = place[targets.masked_fill(ignored, 0)].masked_fill(ignored, -100)
    return _summed(hidden, weight.index_select(0, tokens), places, shift)


def sampled_rows(targets: Tensor, vocab_size: int, sample: int) -> int:
    """Return how many rows of the head ``sampled_softmax_loss`` multiplies with."""
    return _rows(int(_own_tokens(targets, vocab_size).sum()), vocab_size, sample)


def _rows(own: int, vocab_size: int, sample: int) -> int:
    """Return the rows of a softmax: one of few numbers, since tensors of ever new sizes scatter the
    C library's memory until a small training takes twice as much.
    """
    unit = max(1, vocab_size // SIZES)
    return min(math.ceil((own + sample) / unit) * unit, vocab_size)


def _own_tokens(targets: Tensor, vocab_size: int) -> Tensor:
    own = torch.zeros(vocab_size, dtype=torch.bool, device=targets.device)
    own[targets[targets >= 0]] = True
    return own


def _summed(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    shift: Tensor | None,
    soft: SoftTargets | None = None,
) -> Tensor:
    if not torch.is_grad_enabled():
        # In an evaluation a weight still says that it wants a gradient: two thirds of the work.
        hidden, weight = hidden.detach(), weight.detach()
    loss: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden.flatten(0, -2), weight, targets.flatten(), shift, soft
    )
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        shift: Tensor | None,
        soft: SoftTargets | None,
    ) -> Tensor:
        device, vocab_size, dtype = hidden.device.type, len(weight), hidden.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        # A frozen head has no gradient, but what it reads has.
        learns = weight.requires_grad
        differentiable = hidden.requires_grad or learns
        head = weight.detach().to(dtype)
        # Added to the logits; zeros where there is no shift.
        shift = head.new_zeros(()) if shift is None else shift.to(dtype)
        if device == "cuda" and vocab_size % ALIGNED:
            # Products with an odd number of columns take several times as long there.
            more = -vocab_size % ALIGNED
            head = F.pad(head, (0, 0, 0, more))
            shift = F.pad(shift.expand(vocab_size), (0, more), value=-math.inf)
        if soft is not None:
            their_states = soft.hidden.flatten(0, -2).to(dtype)
            their_head = F.pad(soft.weight.to(dtype), (0, 0, 0, len(head) - vocab_size))
        ignored = targets == -100
        # A state of zeros adds nothing to the head's gradient.
        states = hidden.detach().to(dtype).masked_fill(ignored[:, None], 0.0)
        targets = targets.masked_fill(ignored, 0)
        losses = hidden.new_empty(len(states), dtype=torch.float32)
        grad_hidden = torch.empty_like(states) if differentiable else None
        grad_weight = torch.zeros_like(weight) if learns else None
        size = head_chunk_rows(vocab_size, weight.shape[1], device)
        # Autocast would turn the softmax to fp32.
        with torch.autocast(device, enabled=False):
            for start in range(0, len(states), size):
                rows = slice(start, start + size)
                logits = torch.addmm(shift, states[rows], head.T)
                losses[rows], gradient = softmax_gradient(logits, targets[rows])
                if soft is not None:
                    others = their_states[rows] @ their_head.T
                    # Without the columns that only fill up.
                    both = logits[:, :vocab_size], others[:, :vocab_size]
                    _mix(soft.share, *both, gradient[:, :vocab_size], targets[rows], losses[rows])
                if grad_hidden is not None:
                    torch.mm(gradient, head, out=grad_hidden[rows])
                if grad_weight is not None:
                    grad_weight += (gradient.T @ states[rows])[:vocab_size]
        if grad_hidden is not None:
            grad_hidden.masked_fill_(ignored[:, None], 0.0)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.hidden_dtype = hidden.dtype
        return losses.masked_fill_(ignored, 0.0).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        (scale,) = grads
        if grad_weight is not None:
            grad_weight.mul_(scale)
        return (grad_hidden * scale).to(ctx.hidden_dtype), grad_weight, None, None, None


RARE = 1e-30
"""Probabilities below this may have lost digits to underflow."""


def softmax_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's cross-entropy in fp32, and its gradient in the logits' own type.

    One softmax computes both, in the logits' type, without a conversion to fp32 and back. For a
    target near 1 the loss comes from the other probabilities, and for one near 0 from the logits,
    so that rounding does not lose it.

    Args:
        logits: ``[rows, vocab_size]``.
        targets: ``[rows]``.
    """
    # Indexed, because torch's scatter_ copies the whole tensor first.
    places = torch.arange(len(targets), device=targets.device)
    target = places, targets
    gradient = logits.softmax(1)
    # Looking whether any is rare would wait for a GPU.
    highest = logits.max(1) if logits.is_cuda else None
    if highest is not None:
        log_sum = highest.values.float() - gradient[places, highest.indices].float().log()
    probability = gradient[target].float()
    # A plain 0 would be copied to a GPU.
    gradient[target] = gradient.new_zeros(())
    others = gradient.sum(1)
    gradient[target] = -others
    losses = torch.where(probability < 0.5, -probability.log(), -torch.log1p(-others.float()))
    rare = probability < RARE
    if highest is not None:
        losses = torch.where(rare, log_sum - logits[target].float(), losses)
    elif rare.any():
        losses[rare] = F.cross_entropy(logits[rare].float(), targets[rare], reduction="none")
    return losses, gradient


def _mix(
    share: float, logits: Tensor, others: Tensor, gradient: Tensor, targets: Tensor, losses: Tensor
) -> None:
    """Turn a share of the cross-entropies and their gradients into divergences, in place.

    Args:
        share: of the divergence KL(softmax of ``others`` ‖ softmax of ``logits``).
        logits: ``[rows, vocab_size]``.
        others: ``[rows, vocab_size]``, overwritten.
        gradient: of the cross-entropies by the logits.
        targets: ``[rows]``.
        losses: ``[rows]``, the cross-entropies.
    """
    places = torch.arange(len(targets), device=targets.device)
    target = places, targets
    log_sum = losses + logits[target].float()
    soft = others.softmax(1)
    highest = others.max(1)
    their_log_sum = highest.values.float() - soft[places, highest.indices].float().log()
    # Both gradients are the softmax of the logits less what is learned.
    gradient.sub_(soft, alpha=share)
    gradient[target] += share
    gap = others.sub_(logits).mul_(soft).sum(1, dtype=torch.float32)
    losses.lerp_(gap - their_log_sum + log_sum, share)


def divergence(
    scores: Tensor, others: Tensor, kind: str = "cross_entropy", weights: Tensor | None = None
) -> Tensor:
    """Return how far answers are from another model's, summed over rows.

    It is the KL divergence from the other's distribution; of numbers, the squared difference.

    Args:
        scores: as for ``classification_loss``.
        others: of the other model, of the same shape.
        kind: as for ``classification_loss``.
        weights: ``[batch]`` weight of each row; ``[batch, n_labels]`` for ``multi``.
    """
    scores, others = scores.float(), others.float()
    if kind == "squared_error":
        losses = (scores[:, 0] - others[:, 0]) ** 2
    elif kind == "multi":
        theirs = others.sigmoid()
        both = (
            theirs * (F.logsigmoid(others) - F.logsigmoid(scores))
            + (1 - theirs) * (F.logsigmoid(-others) - F.logsigmoid(-scores))
        )  # fmt: skip
        losses = (both if weights is None else both * weights).mean(1)
        weights = None
    else:
        if kind == "binary":
            # Two classes, of which the first has the score 0.
            scores, others = (F.pad(each, (1, 0)) for each in (scores, others))
        logs = scores.log_softmax(1), others.log_softmax(1)
        losses = F.kl_div(*logs, reduction="none", log_target=True).sum(1)
    return (losses if weights is None else losses * weights).sum()


def classification_loss(
    scores: Tensor,
    targets: Tensor,
    kind: str = "cross_entropy",
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the summed loss of one answer per row.

    Args:
        scores: ``[batch, n_labels]``; ``[batch, 1]`` for ``binary`` and ``squared_error``.
        targets: ``[batch]`` classes, or numbers for ``squared_error``; ``[batch, n_labels]`` 0 and
            1 for ``multi``.
        kind: ``cross_entropy``, ``binary`` (of class 1 against class 0), ``squared_error``, or
            ``multi``: the mean binary cross-entropy of each label against its absence.
        label_smoothing: share of the target that is distributed over all classes.
        weights: ``[batch]`` weight of each row; ``[batch, n_labels]`` for ``multi``.
    """
    scores = scores.float()
    if kind == "squared_error":
        losses = (scores[:, 0] - targets) ** 2
    elif kind == "binary":
        wanted = targets.float() * (1 - label_smoothing) + label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(scores[:, 0], wanted, reduction="none")
    elif kind == "multi":
        wanted = targets.float() * (1 - label_smoothing) + label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(
            scores, wanted, weight=weights, reduction="none"
        ).mean(1)
        weights = None
    else:
        losses = F.cross_entropy(scores, targets, reduction="none", label_smoothing=label_smoothing)
    return (losses if weights is None else losses * weights).sum()
