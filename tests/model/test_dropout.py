"""Dropout from cheap bits, against what dropout promises."""

from __future__ import annotations

import pytest
import torch

from wafergpt.model.dropout import Dropout


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_share_and_scale(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    n = 200_003
    x = torch.ones(n, dtype=dtype)
    dropped = Dropout(p)(x)
    zeros = int((dropped == 0).sum())
    # Five standard deviations of a binomial.
    assert abs(zeros - p * n) < 5 * (p * (1 - p) * n) ** 0.5
    assert dropped.dtype == dtype
    assert torch.allclose(dropped[dropped != 0].float(), torch.tensor(1 / (1 - p)), rtol=4e-3)


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(0)
    dropped = Dropout(0.5)(torch.ones(4, 50_000)) == 0
    for apart in (1, 2, 3, 4):
        both = float((dropped[:, apart:] & dropped[:, :-apart]).float().mean())
        assert abs(both - 0.25) < 0.01


def test_gradient_passes_where_the_value_did() -> None:
    torch.manual_seed(0)
    x = torch.full((64, 64), 2.0, requires_grad=True)
    dropped = Dropout(0.3)(x)
    dropped.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad * 2.0, dropped.detach())


def test_a_probability_next_to_one_divides_by_nothing() -> None:
    assert torch.isfinite(Dropout(0.99999999)(torch.ones(1000))).all()


def test_seed_decides() -> None:
    x = torch.ones(1000)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(Dropout(0.5)(x))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_nothing_is_dropped_in_evaluation_or_without_probability() -> None:
    x = torch.randn(100)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(1.0)(x), torch.zeros(100))
