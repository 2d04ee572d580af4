"""Losses of retrieval, against torch's own of one query or pair at a time."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from wafergpt.model.retrieval_loss import Objective, contrastive_loss, ranking_losses


def test_the_contrastive_loss_is_a_cross_entropy_of_cosines() -> None:
    torch.manual_seed(0)
    queries, candidates = torch.randn(4, 6), torch.randn(7, 6)
    ignored = torch.zeros(4, 7, dtype=torch.bool)
    ignored[0, 3] = ignored[3, 0] = ignored[2, 6] = True
    found = contrastive_loss(queries, candidates, ignored, 0.1)
    expected = torch.zeros(())
    for row, query in enumerate(queries):
        kept = [place for place in range(7) if not ignored[row, place]]
        cosines = torch.stack([F.cosine_similarity(query, candidates[p], dim=0) for p in kept])
        target = torch.tensor([kept.index(row)])
        expected = expected + F.cross_entropy(cosines[None] / 0.1, target)
    torch.testing.assert_close(found, expected)


def test_the_contrastive_loss_is_exact_where_products_are_rough() -> None:
    torch.manual_seed(0)
    queries, candidates = torch.randn(4, 64), torch.randn(4, 64)
    nothing = torch.zeros(4, 4, dtype=torch.bool)
    exact = contrastive_loss(queries, candidates, nothing, 0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert contrastive_loss(queries, candidates, nothing, 0.05) == exact


LISTS = [[2.0, 0.0, 1.0], [0.0, 1.0], [0.0, 0.0, 3.0, 1.0]]


@pytest.mark.parametrize("objective", ["listwise", "pairwise"])
def test_lists_are_learned_without_their_padding(objective: Objective) -> None:
    torch.manual_seed(0)
    scores = torch.randn(3, 4, requires_grad=True)
    relevance = torch.full((3, 4), -1.0)
    for row, known in enumerate(LISTS):
        relevance[row, : len(known)] = torch.tensor(known)
    found = ranking_losses(scores, relevance, objective)
    expected = []
    for row, known in enumerate(LISTS):
        own, gains = scores[row, : len(known)], torch.tensor(known)
        if objective == "listwise":
            expected.append(F.cross_entropy(own[None], gains[None] / gains.sum()))
            continue
        pairs = [(i, j) for i in range(len(known)) for j in range(len(known))
                 if known[i] > known[j]]  # fmt: skip
        apart = torch.stack([own[i] - own[j] for i, j in pairs])
        expected.append(F.binary_cross_entropy_with_logits(apart, torch.ones(len(pairs))))
    torch.testing.assert_close(found, torch.stack(expected))
    (gradient,) = torch.autograd.grad(found.sum(), scores)
    assert gradient.isfinite().all()
    assert (gradient[relevance < 0] == 0).all()
    assert (gradient[relevance >= 0] != 0).all()
