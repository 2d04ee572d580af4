"""Weights in bf16 and int8."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wafergpt.config import Model
from wafergpt.model.cache import Cache
from wafergpt.model.gpt import GPT
from wafergpt.model.quantized import FEW_ROWS, Int8Linear, Weights, with_weights


@pytest.mark.parametrize("rows", [1, FEW_ROWS, FEW_ROWS + 1, 40])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(32, 48), (33, 7), (1, 5), (768, 100)])
def test_a_layer_multiplies_with_its_rounded_weights(
    rows: int, bias: bool, shape: tuple[int, int]
) -> None:
    torch.manual_seed(rows)
    linear = nn.Linear(*shape, bias=bias)
    with torch.no_grad():
        linear.weight[0] = 0.0
    made = Int8Linear(linear.weight.detach(), linear.bias.detach() if bias else None)
    error = (made.values * made.scales.float()[:, None] - linear.weight).abs()
    # Half a step of 127, and bf16 scales.
    assert (error <= linear.weight.abs().amax(1, keepdim=True) * (0.5 / 127 + 2**-8) + 1e-9).all()
    x = torch.randn(2, rows, shape[0])[:1]
    y = made(x.bfloat16())
    assert y.shape == (1, rows, shape[1])
    wanted = linear(x)
    assert (y.float() - wanted).norm() < 0.02 * wanted.norm() + 1e-3


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8"])
def test_logits_stay_close_token_by_token(weights: Weights, tied: bool) -> None:
    shape = Model(n_layers=2, d_model=64, n_heads=2, seq_len=32, vocab_size=100, tied=tied,
                  ngrams=(2,), ngram_rows=50)  # fmt: skip
    gpt, changed = (GPT(shape).initialize(0).eval() for _ in range(2))
    changed = with_weights(changed, weights)
    tokens = torch.randint(0, 100, (1, 20))
    with torch.inference_mode():
        wanted = gpt.logits(gpt(tokens))
        cache = Cache(1, shape, torch.float32)
        found = [changed.logits(changed(tokens[:, :12], cache=cache))]
        found += [changed.logits(changed(tokens[:, n : n + 1], cache=cache)) for n in range(12, 20)]
    logits = torch.cat(found, 1).float()
    tolerance = {"fp32": 1e-4, "bf16": 0.01, "int8": 0.02}[weights]
    assert (logits - wanted).norm() < tolerance * wanted.norm()
