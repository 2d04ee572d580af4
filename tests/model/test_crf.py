"""The field beside all paths, one by one."""

from __future__ import annotations

import itertools

import pytest
import torch

from wafergpt.model.crf import (
    FORBIDDEN,
    best_paths,
    log_partition,
    marginals,
    path_scores,
    with_forbidden,
)


@pytest.mark.parametrize("seed", range(5))
def test_all_of_it_equals_the_sum_over_all_paths(seed: int) -> None:
    torch.manual_seed(seed)
    lengths = torch.tensor([4, 1, 3])
    scores = torch.randn(3, 4, 3)
    allowed = torch.rand(4, 4) < 0.8
    allowed[-1, 0] = allowed[0, 0] = allowed[0, -1] = True
    steps = with_forbidden(torch.randn(4, 4), allowed)
    tags = best_paths(scores, steps, lengths)
    shares = marginals(scores, steps, lengths)
    for row, n in enumerate(lengths.tolist()):
        paths = list(itertools.product(range(3), repeat=n))
        totals = []
        for path in paths:
            ends = [-1, *path, -1]
            moves = sum(steps[a, b] for a, b in itertools.pairwise(ends))
            totals.append(scores[row, range(n), path].sum() + moves)
        total = torch.stack(totals)
        assert torch.allclose(log_partition(scores, steps, lengths)[row], total.logsumexp(0))
        assert tags[row, :n].tolist() == list(paths[int(total.argmax())])
        assert not tags[row, n:].any()
        found = path_scores(scores, steps, lengths, tags)[row]
        assert torch.allclose(found, total.max())
        weights = total.softmax(0)
        for place in range(n):
            for tag in range(3):
                mine = weights[[path[place] == tag for path in paths]].sum()
                assert torch.allclose(shares[row, place, tag], mine, atol=1e-5)
        assert not shares[row, n:].any()


def test_padding_changes_nothing_and_gradients_are_numbers() -> None:
    torch.manual_seed(0)
    transitions = torch.randn(4, 4, requires_grad=True)
    allowed = torch.ones(4, 4, dtype=torch.bool)
    allowed[0, 1] = False
    steps, scores = with_forbidden(transitions, allowed), torch.randn(2, 5, 3)
    lengths, tags = torch.tensor([2, 5]), torch.zeros(2, 5, dtype=torch.long)
    loss = log_partition(scores, steps, lengths) - path_scores(scores, steps, lengths, tags)
    alone = log_partition(scores[:1, :2], steps, lengths[:1]) - path_scores(
        scores[:1, :2], steps, lengths[:1], tags[:1, :2]
    )
    assert torch.allclose(loss[0], alone[0])
    loss.sum().backward()
    assert transitions.grad is not None
    assert transitions.grad.isfinite().all()
    assert transitions.grad[0, 1] == 0
    assert steps[0, 1] == FORBIDDEN
