"""Heads and channels that are taken out, beside what linear algebra says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wafergpt.config import Model
from wafergpt.model.gpt import Attention, FeedForward
from wafergpt.sparsity import structured

KEPT = torch.tensor([0, 2, 5])


def gram_of(x: Tensor) -> Tensor:
    x = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    return x.T @ x


def test_a_refitted_layer_is_the_least_squares_solution() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(6, 4), torch.randn(200, 6) @ torch.randn(6, 6) + 1.0
    found = structured.refitted(linear, KEPT, gram_of(x))
    few = np.c_[x[:, KEPT].double().numpy(), np.ones(len(x))]
    wanted, *_ = np.linalg.lstsq(few, linear(x).detach().double().numpy(), rcond=None)
    assert torch.allclose(found.weight, torch.from_numpy(wanted[:-1].T).float(), atol=1e-3)
    assert torch.allclose(found.bias, torch.from_numpy(wanted[-1]).float(), atol=1e-3)


def test_what_others_say_too_can_be_left_out_for_nothing() -> None:
    torch.manual_seed(0)
    linear, few = nn.Linear(6, 4), torch.randn(200, 3)
    x = few @ torch.randn(3, 6) + torch.randn(6)
    found = structured.refitted(linear, KEPT, gram_of(x))
    assert torch.allclose(found(x[:, KEPT]), linear(x), atol=1e-2)


@pytest.mark.parametrize("d_head", [0, 24])
def test_a_head_that_is_ignored_can_go(d_head: int) -> None:
    torch.manual_seed(0)
    model = Model(d_model=32, n_heads=4, d_head=d_head, n_layers=1, seq_len=16, vocab_size=9)
    attention = Attention(model)
    width = attention.d_head
    with torch.no_grad():
        attention.out.weight[:, width : 2 * width] = 0.0
    x = torch.randn(3, 16, 32)
    wanted = attention(x, None, None)
    inputs: list[Tensor] = []
    attention.out.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    attention(x, None, None)
    # More rows than columns, so that there is one solution.
    more = torch.cat([inputs[0].detach().flatten(0, 1), torch.randn(200, 4 * width)])
    structured.cut_heads(attention, torch.tensor([0, 2, 3]), gram_of(more))
    assert torch.allclose(attention(x, None, None), wanted, atol=1e-3)


def test_channels_that_are_ignored_can_go() -> None:
    torch.manual_seed(0)
    ffn = FeedForward(Model(d_model=8, n_heads=2, d_ffn=6, n_layers=1, seq_len=4, vocab_size=9))
    with torch.no_grad():
        ffn.out.weight[:, [1, 3, 4]] = 0.0
    x = torch.randn(200, 8)
    wanted = ffn(x)
    hidden = torch.randn(300, 6)
    structured.cut_channels(ffn, KEPT, gram_of(hidden))
    assert ffn.up.out_features == 3
    assert torch.allclose(ffn(x), wanted, atol=1e-3)
