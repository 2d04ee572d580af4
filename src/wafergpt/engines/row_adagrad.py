"""The optimizer of tables of which an update reads a few rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from wafergpt.distributed.sharding import Part, like


class RowAdagrad(torch.optim.Optimizer):
    """Adagrad (Duchi et al., JMLR 12, 2011) with one accumulator per row, as recommenders train.

    A row moves only in updates that read it. So an update costs what it reads and not what the
    table holds, and a row's steps get shorter with its own updates, not with all. The state is one
    number per row. Gradients may be sparse or dense.

    A group's ``power`` of its sums of squares divides its steps: 1/2 is Adagrad's, and 0 would be
    plain gradient descent.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr, "power": 0.5})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move the rows that have a gradient."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._move(table, group["lr"], group["power"])

    def _move(self, table: Tensor, lr: float, power: float) -> None:
        assert table.grad is not None
        weights, state = Part.of(table).values, self.state[table]
        if not state:
            state["squares"] = like(table, weights.new_zeros(len(weights), 1))
        squares = Part.of(state["squares"]).values
        if weights.is_cuda and not table.grad.is_sparse:
            _move_all(weights, squares, Part.of(table.grad).values, lr, power)
            return
        rows, gradient = _by_rows(table.grad)
        sizes = _mean_squares(gradient)
        # Padding is read too, without a gradient.
        moved = sizes[:, 0] > 0
        rows, gradient = rows[moved], gradient[moved]
        sums = squares[rows] + sizes[moved]
        squares[rows] = sums
        weights[rows] = torch.addcmul(weights[rows], gradient, sums.pow(-power), value=-lr)


def _move_all(weights: Tensor, squares: Tensor, gradient: Tensor, lr: float, power: float) -> None:
    """Do the same to all rows, where a row without a gradient stays: a GPU need not count them."""
    squares += _mean_squares(gradient)
    steps = torch.where(squares > 0, squares, 1.0).pow_(-power)
    weights.addcmul_(gradient, steps, value=-lr)


def _mean_squares(gradient: Tensor) -> Tensor:
    # Without a second table of squares.
    norms: Tensor = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
    return norms**2 / gradient.shape[1]


def _by_rows(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the numbers of a gradient's rows, and the rows."""
    if gradient.is_sparse:
        gradient = gradient.coalesce()
        return gradient.indices()[0], gradient.values()
    values = Part.of(gradient).values
    return torch.arange(len(values), device=values.device), values
