"""Adapters against the paper's formula and transformers' GPT-2; frozen weights, FLOPs, roles."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from wafergpt.config import Lora, Model
from wafergpt.config.sparsity import BLOCKS
from wafergpt.interop.gpt2 import hugging_face_names, is_transposed
from wafergpt.model.gpt import GPT
from wafergpt.model.heads import Classifier
from wafergpt.model.lora import LoraLinear, add_adapters
from wafergpt.model.loss import next_token_loss
from wafergpt.shapes.counts import adapter_parameters, parameters, training_flops
from wafergpt.shapes.parametrization import parametrization, rules
from wafergpt.shapes.roles import LORA, role_of

SHAPE: dict[str, Any] = {
    "n_layers": 2, "d_model": 32, "n_heads": 4, "seq_len": 16, "vocab_size": 50,
}  # fmt: skip
TOKENS = torch.arange(32).view(2, 16) % 50


def adapted(lora: Lora, trained: bool = True, **shape: Any) -> GPT:
    """Return a GPT with adapters, as initialized or as if they were trained."""
    gpt = GPT(Model.model_validate({**SHAPE, **shape})).initialize(0)
    frozen = add_adapters(gpt, lora)
    with torch.no_grad():
        for name, values in gpt.added(gpt.added_to(frozen), seed=1):
            gpt.get_parameter(name).copy_(values)
        torch.manual_seed(0)
        for name, parameter in gpt.named_parameters():
            if trained and name.endswith("lora_b"):
                parameter.normal_(0, 0.1)
    return gpt


@pytest.mark.parametrize("parametrization", ["sp", "mup"])
def test_with_b_of_zero_the_logits_are_those_of_the_base(parametrization: str) -> None:
    shape = {"parametrization": parametrization, "base_d_model": 16}
    base = GPT(Model.model_validate({**SHAPE, **shape})).initialize(0)
    gpt = adapted(Lora(rank=4), trained=False, **shape)
    assert torch.equal(gpt.logits(gpt(TOKENS)), base.logits(base(TOKENS)))
    for name, parameter in gpt.named_parameters():
        if name.endswith("lora_a"):
            bound = parameter.shape[1] ** -0.5
            # He et al.'s bound for a slope of √5, as torch computes it for peft.
            same = nn.init.kaiming_uniform_(torch.empty(999, parameter.shape[1]), a=5**0.5)
            assert 0.9 * bound < float(parameter.detach().abs().max()) <= bound
            assert float(parameter.detach().std()) == pytest.approx(float(same.std()), rel=0.15)


def test_what_the_paper_says_in_transformers_gpt2() -> None:
    """Section 4.1, on a network that is not ours, whose matrices are transposed and fused."""
    transformers = pytest.importorskip("transformers")
    lora = Lora(rank=3, alpha=12)
    gpt = adapted(lora)
    names = hugging_face_names(gpt.config)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=4,
            activation_function="gelu", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )
    ).eval()  # fmt: skip
    found = dict(gpt.named_parameters())
    with torch.no_grad():
        for ours, name in names.items():
            values = found[ours].T if is_transposed(ours) else found[ours]
            theirs.transformer.get_parameter(name).copy_(values)

    def beside(a: Tensor, b: Tensor) -> Any:
        # h = W0·x + (α/r)·B·A·x
        return lambda module, inputs, output: output + 12 / 3 * ((inputs[0] @ a.T) @ b.T)

    hooked = 0
    for ours, name in names.items():
        layer = ours.removesuffix("weight")
        if layer + "lora_a" in found:
            module = theirs.transformer.get_submodule(name.removesuffix(".weight"))
            module.register_forward_hook(beside(found[layer + "lora_a"], found[layer + "lora_b"]))
            hooked += 1
    assert hooked == 8
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(TOKENS).logits, gpt.logits(gpt(TOKENS)), rtol=1e-4, atol=1e-5
        )


@examples(max_examples=25)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.floats(0.1, 64))
def test_a_merged_matrix_computes_the_same(
    rank: int, rows: int, columns: int, scale: float
) -> None:
    torch.manual_seed(rank)
    layer = LoraLinear(nn.Linear(columns, rows), rank, scale).double()
    nn.init.normal_(layer.lora_a)
    nn.init.normal_(layer.lora_b)
    x = torch.randn(5, columns).double()
    merged = layer.weight + scale * (layer.lora_b @ layer.lora_a)
    torch.testing.assert_close(layer(x), F.linear(x, merged, layer.bias))


@pytest.mark.parametrize("roles", [BLOCKS, ("qkv",), ("ffn_in", "ffn_out"), ("ffn_out",)])
@pytest.mark.parametrize("task", [False, True])
def test_flops_are_those_of_torchs_counter(roles: Any, task: bool) -> None:
    lora = Lora(rank=4, roles=roles)
    gpt = adapted(lora)
    network: nn.Module = Classifier(gpt, 3) if task else gpt
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        if task:
            network(TOKENS, torch.tensor([16, 16])).sum().backward()
        else:
            next_token_loss(gpt(TOKENS), gpt.head, TOKENS).backward()
    weights = 3 * 32 if task else 0
    rows = 0 if task else None
    assert counter.get_total_flops() == 2 * training_flops(gpt.config, 16, rows, weights, lora)
    assert training_flops(gpt.config, 16, rows, weights, Lora()) == training_flops(
        gpt.config, 16, rows, weights
    )


@pytest.mark.parametrize("ngrams", [(), (2,)])
def test_adapters_alone_get_gradients(ngrams: tuple[int, ...]) -> None:
    lora = Lora(rank=2, roles=("qkv", "ffn_out"))
    gpt = adapted(lora, ngrams=ngrams, ngram_rows=8)
    next_token_loss(gpt(TOKENS), gpt.head, TOKENS).backward()
    learning = {n for n, p in gpt.named_parameters() if p.grad is not None}
    assert len(learning) == 8
    assert all(name.endswith(("lora_a", "lora_b")) for name in learning)
    total = sum(parameter.numel() for parameter in gpt.parameters())
    assert total == parameters(gpt.config) + adapter_parameters(gpt.config, lora)


def test_roles_follow_the_width_that_varies() -> None:
    """η/fan_in for A and η for B (arXiv:2402.12354), whichever of the widths is fan_in."""
    gpt = adapted(Lora(rank=2), parametrization="mup", base_d_model=8, d_ffn=256, base_d_ffn=16)
    names = [name for name, _ in gpt.named_parameters()]
    assert {role_of(name) for name in names} >= set(LORA)
    found = {name: rule.factor for name, rule in rules(gpt.config, "adamw", names).items()}
    for name, parameter in gpt.named_parameters():
        if name.endswith("lora_a"):
            of_ffn = parameter.shape[1] == 256
            assert found[name] == (1 / 16 if of_ffn else 1 / 4), name
        elif name.endswith("lora_b"):
            assert found[name] == 1, name
    sgd = {role: row.lr["sgd"] for role, row in parametrization(gpt.config).rows.items()}
    assert [sgd[role] for role in LORA] == [1 / 4, 1 / 16, 4, 16]
    assert all(rule.decays for n, rule in rules(gpt.config, "muon", names).items() if "lora_" in n)
