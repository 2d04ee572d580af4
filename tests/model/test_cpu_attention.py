"""Causal attention by tiles against torch's own in fp32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from wafergpt.model import cpu_attention
from wafergpt.model.cpu_attention import BLOCK, causal_attention

CACHED = 1 << 18
"""A quarter of what is built in: one head a tile is then a text of 2,049 tokens."""

# One query, an odd length, one tile and a bit, tiles that hold a few heads each, one head a tile.
SHAPES = [
    (2, 3, 1, 16),
    (1, 2, 77, 32),
    (2, 2, BLOCK + 1, 8),
    (3, 30, 300, 16),
    (1, 1, CACHED // BLOCK + 1, 4),
]


@pytest.fixture(autouse=True)
def cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_attention, "CACHED", CACHED)


def with_gradients(
    attention: Callable[[Tensor, Tensor, Tensor], Tensor], tensors: list[Tensor], weight: Tensor
) -> list[Tensor]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    mixed = attention(*leaves)
    (mixed.float() * weight).sum().backward()
    return [mixed.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def ours(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    mixed: Tensor = causal_attention(query, key, value, scale(query))
    return mixed


def scale(query: Tensor) -> float:
    """Neither of the two that parametrizations use, so that neither can be built in."""
    factor: float = 0.7 * query.shape[-1] ** -0.5
    return factor


def exact(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale(query))


def explicit(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What a textbook writes down, in the precision of its inputs."""
    length = query.shape[-2]
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    scores = (query @ key.transpose(-1, -2)) * scale(query)
    return scores.masked_fill(hidden, float("-inf")).softmax(-1) @ value


def error(of: Tensor, against: Tensor) -> float:
    return float((of.double() - against.double()).norm() / against.double().norm())


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients_are_as_close_to_fp32_as_bf16_gets(
    shape: tuple[int, int, int, int],
) -> None:
    generator = torch.Generator().manual_seed(shape[2])
    tensors = [torch.randn(shape, generator=generator).bfloat16() for _ in range(3)]
    weight = torch.randn(shape, generator=generator)
    mine_all = with_gradients(ours, tensors, weight)
    right = with_gradients(exact, [tensor.float() for tensor in tensors], weight)
    textbook = with_gradients(explicit, tensors, weight)
    for mine, fp32, plain in zip(mine_all, right, textbook, strict=True):
        assert mine.dtype == torch.bfloat16
        assert mine.shape == shape
        # A single query's weights are all 1: nothing flows to queries and keys.
        if float(fp32.norm()) == 0:
            assert float(mine.norm()) == 0
        else:
            assert error(mine, fp32) <= max(1.3 * error(plain, fp32), 0.008)


def test_no_query_sees_what_comes_later() -> None:
    tensors = [torch.randn(1, 2, 200, 16).bfloat16() for _ in range(3)]
    before = ours(*tensors)
    for tensor in tensors:
        tensor[:, :, 150:] = 30.0
    after = ours(*tensors)
    assert torch.equal(before[:, :, :150], after[:, :, :150])
    assert not torch.equal(before[:, :, 150:], after[:, :, 150:])


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_torch_finds_nothing_wrong_with_the_operator(batch: int, packed: bool) -> None:
    """Also of views of one tensor, as the GPT has them: of one row they are not dense."""
    tensors = torch.randn(batch, 130, 3, 2, 8).bfloat16().permute(2, 0, 3, 1, 4).unbind()
    if not packed:
        tensors = tuple(tensor.contiguous() for tensor in tensors)
    tensors = tuple(tensor.detach().requires_grad_() for tensor in tensors)
    assert causal_attention(*tensors, 0.3).is_contiguous()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    assert set(
        torch.library.opcheck(causal_attention, (*tensors, 0.3), test_utils=checks).values()
    ) == {"SUCCESS"}
