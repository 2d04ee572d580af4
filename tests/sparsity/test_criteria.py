"""Pruning of trained matrices, against the closed form and the papers' own words."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wafergpt.sparsity import criteria


def data(rows: int, columns: int, tokens: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows * 100 + columns)
    mix = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    mix *= torch.randn(columns, generator=generator, dtype=torch.float64).exp()
    x = torch.randn(tokens, columns, generator=generator, dtype=torch.float64) @ mix
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64), x, x.T @ x


def damped(gram: Tensor) -> Tensor:
    return gram + criteria.DAMPING * gram.diagonal().mean() * torch.eye(len(gram))


@given(st.integers(1, 4), st.integers(3, 16), st.data())
@settings(max_examples=30)
def test_pruned_first_columns_leave_the_least_squares_solution(
    rows: int, columns: int, drawn: st.DataObject
) -> None:
    """argmin ‖WX - ŴX‖² over the kept weights, with the damping: the closed form that the method
    approximates, and reaches where what is pruned comes first."""
    matrix, _, gram = data(rows, columns)
    n = drawn.draw(st.integers(1, columns - 1))
    # So small beside the others that exactly they are pruned.
    matrix[:, :n] *= 1e-6
    new, mask = criteria.sparsegpt(matrix, gram, n / columns)
    assert not mask[:, :n].any()
    hessian = damped(gram)
    right = (matrix @ hessian)[:, n:].T
    expected = torch.linalg.solve(hessian[n:, n:], right).T
    assert torch.allclose(new[:, n:], expected, rtol=1e-6, atol=1e-9)


def test_wanda_is_what_its_paper_says() -> None:
    """Algorithm 1 of arXiv:2306.11695, row by row."""
    matrix, x, gram = data(5, 12)
    mask = criteria.wanda(matrix, gram, 0.5)
    metric = matrix.abs() * torch.linalg.vector_norm(x, dim=0)
    for row in range(5):
        pruned = metric[row].argsort()[:6]
        assert not mask[row, pruned].any()
        assert int(mask[row].sum()) == 6


def test_sparsegpt_loses_less_than_wanda_and_wanda_than_magnitude() -> None:
    total: dict[str, float] = dict.fromkeys(("magnitude", "wanda", "sparsegpt"), 0.0)
    for columns in (16, 130, 256):
        matrix, x, gram = data(24, columns, tokens=1024)
        found = {
            "magnitude": matrix * criteria.magnitude({"": matrix}, 0.5, False)[""],
            "wanda": matrix * criteria.wanda(matrix, gram, 0.5),
            "sparsegpt": criteria.sparsegpt(matrix, gram, 0.5)[0],
        }
        for name, new in found.items():
            assert float((new == 0).double().mean()) == pytest.approx(0.5, abs=0.03)
            total[name] += float(
                ((matrix - new) @ x.T).square().sum() / (matrix @ x.T).square().sum()
            )
    assert total["sparsegpt"] < 0.8 * total["wanda"] < 0.6 * total["magnitude"]


@given(st.integers(1, 5), st.integers(1, 9))
@settings(max_examples=20)
def test_two_of_each_four_inputs_are_kept(rows: int, groups: int) -> None:
    matrix, _, gram = data(rows, 4 * groups)
    for mask in (criteria.two_of_four(matrix.abs()),
                 criteria.sparsegpt(matrix, gram, 0.5, pattern=True)[1]):  # fmt: skip
        assert (mask.unflatten(1, (-1, 4)).sum(2) == 2).all()


def test_magnitudes_of_all_matrices_together() -> None:
    small, large = torch.full((4, 4), 0.1), torch.full((4, 4), 1.0)
    found = criteria.magnitude({"small": small, "large": large}, 0.5, True)
    assert not found["small"].any()
    assert found["large"].all()
    apart = criteria.magnitude({"small": small, "large": large}, 0.5, False)
    assert int(apart["small"].sum()) == int(apart["large"].sum()) == 8


def test_an_input_that_is_always_zero() -> None:
    matrix, x, _ = data(3, 8)
    x[:, 2] = 0
    new, _ = criteria.sparsegpt(matrix, x.T @ x, 0.5)
    assert (new[:, 2] == 0).all()
    assert new.isfinite().all()


@pytest.mark.parametrize("pattern", [False, True])
def test_zeros_stay_zeros(pattern: bool) -> None:
    matrix, _, gram = data(16, 256)
    matrix *= torch.rand(matrix.shape, generator=torch.Generator().manual_seed(1)) < 0.26
    matrix[:, :128] += 1e-3
    new, mask = criteria.sparsegpt(matrix, gram, 0.6, pattern=pattern)
    assert not new[matrix == 0].any()
    assert not mask[matrix == 0].any()
