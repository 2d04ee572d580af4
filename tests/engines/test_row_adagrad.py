"""The optimizer of n-gram tables against torch's Adagrad, and against itself in other layouts."""

from __future__ import annotations

import torch
from torch import nn

from wafergpt.engines.row_adagrad import RowAdagrad


def gradients(seed: int, rows: int = 40, width: int = 6) -> torch.Tensor:
    torch.manual_seed(seed)
    dense = torch.zeros(rows, width)
    read = torch.randperm(rows)[:7]
    dense[read] = torch.randn(7, width)
    return dense


def moved(sparse: bool, steps: int = 9) -> tuple[nn.Parameter, RowAdagrad]:
    torch.manual_seed(0)
    table = nn.Parameter(torch.randn(40, 6))
    optimizer = RowAdagrad([{"params": [table]}], lr=0.1)
    for step in range(steps):
        gradient = gradients(step)
        table.grad = gradient.to_sparse(1) if sparse else gradient
        optimizer.step()
    return table, optimizer


def test_with_one_column_it_is_adagrad() -> None:
    ours, theirs = (nn.Parameter(torch.ones(40, 1)) for _ in range(2))
    optimizer = RowAdagrad([{"params": [ours]}], lr=0.1)
    reference = torch.optim.Adagrad([theirs], lr=0.1, eps=1e-30)
    for step in range(9):
        ours.grad = theirs.grad = gradients(step, width=1)
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours, theirs)


def test_sparse_and_dense_gradients_move_alike() -> None:
    (dense, a), (sparse, b) = moved(False), moved(True)
    assert torch.equal(dense, sparse)
    assert torch.equal(a.state[dense]["squares"], b.state[sparse]["squares"])


def test_a_gradient_too_small_to_square_moves_nothing() -> None:
    table = nn.Parameter(torch.ones(2, 6))
    optimizer = RowAdagrad([{"params": [table]}], lr=0.1)
    table.grad = torch.tensor([[1e-30], [1.0]]).expand(2, 6).clone()
    optimizer.step()
    assert torch.equal(table, torch.tensor([[1.0], [0.9]]).expand(2, 6))


def test_what_was_not_read_stays_as_it_is() -> None:
    table, _ = moved(True, steps=1)
    torch.manual_seed(0)
    start = torch.randn(40, 6)
    unread = ~gradients(0).any(1)
    assert unread.sum() == 33
    assert torch.equal(table[unread], start[unread])
    assert not torch.equal(table[~unread], start[~unread])
