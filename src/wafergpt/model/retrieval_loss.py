"""Losses of retrieval: of vectors that should find each other, and of lists in order."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Objective = Literal["listwise", "pairwise"]


def contrastive_loss(
    queries: Tensor, candidates: Tensor, ignored: Tensor, temperature: float
) -> Tensor:
    """Return the summed cross-entropy of each query's own candidate among all (InfoNCE).

    Oord et al., arXiv:1807.03748; with the candidates of other queries as wrong ones, as in
    Karpukhin et al., arXiv:2004.04906.

    Args:
        queries: ``[n, size]``, of any length: cosines are compared.
        candidates: ``[c, size]``, the first n of which are the queries' own in their order.
        ignored: ``[n, c]``, candidates that are no wrong ones of a query.
        temperature: divides the cosines.

    Returns:
        A scalar.
    """
    # In bf16 cosines would have three digits.
    with torch.autocast(queries.device.type, enabled=False):
        cosines = F.normalize(queries.float(), dim=1) @ F.normalize(candidates.float(), dim=1).T
        scores = (cosines / temperature).masked_fill(ignored, float("-inf"))
        own = torch.arange(len(queries), device=queries.device)
        return F.cross_entropy(scores, own, reduction="sum")


def ranking_losses(scores: Tensor, relevance: Tensor, objective: Objective) -> Tensor:
    """Return the loss ``[n]`` of each list's scores.

    ``listwise`` is the cross-entropy of the softmax of the scores and the relevance as shares of
    its sum: ListNet's top-one probabilities (Cao et al., ICML 2007) of the logarithm of the
    relevance. ``pairwise`` is RankNet's logistic loss (Burges et al., ICML 2005), the mean over the
    pairs of which one is more relevant.

    Args:
        scores: ``[n, most]``.
        relevance: ``[n, most]``, 0 or more; -1 where there is no candidate. Not all of a list are
            alike.
        objective: which loss.
    """
    there = relevance >= 0
    scores = scores.float()
    if objective == "listwise":
        logs = scores.masked_fill(~there, float("-inf")).log_softmax(1).masked_fill(~there, 0.0)
        gains = relevance.clamp(min=0)
        return -(gains * logs).sum(1) / gains.sum(1)
    above = (relevance[:, :, None] > relevance[:, None, :]) & there[:, None, :]
    # Lists have other differences than those that are masked.
    losses = F.softplus(scores[:, None, :] - scores[:, :, None]) * above
    return losses.sum((1, 2)) / above.sum((1, 2))
