"""The network against Hugging Face's GPT-2 on the same weights."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wafergpt.config import Model
from wafergpt.model.cache import Cache
from wafergpt.model.gpt import GPT
from wafergpt.model.heads import Classifier

SHAPE = Model(n_layers=3, d_model=48, n_heads=4, d_ffn=112, seq_len=24, vocab_size=101)

HF_NAMES = {
    "embedding": "wte",
    "position": "wpe",
    "norm": "ln_f",
    "attention_norm": "ln_1",
    "ffn_norm": "ln_2",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "ffn.up": "mlp.c_fc",
    "ffn.out": "mlp.c_proj",
}


def noisy_gpt(shape: Model = SHAPE) -> GPT:
    """Return a network in which every weight, biases too, matters."""
    torch.manual_seed(1)
    gpt = GPT(shape).initialize(0).eval()
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return gpt


def hugging_face(gpt: GPT, name: str, **settings: Any) -> Any:
    transformers = pytest.importorskip("transformers", reason="the parity tests need transformers")
    shape = gpt.config
    config = transformers.GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=shape.seq_len,
        n_embd=shape.d_model,
        n_layer=shape.n_layers,
        n_head=shape.n_heads,
        n_inner=shape.d_ffn,
        activation_function="gelu" if shape.activation == "gelu" else "gelu_new",
        bos_token_id=0,
        eos_token_id=0,
        **settings,
    )
    model = getattr(transformers, name)(config).eval()
    target = model.transformer.state_dict()
    with torch.no_grad():
        for full_name, tensor in gpt.state_dict().items():
            module, _, kind = full_name.rpartition(".")
            prefix = ""
            if module.startswith("blocks."):
                _, layer, module = module.split(".", 2)
                prefix = f"h.{layer}."
            # Their linear layers inside the blocks keep the transpose.
            value = tensor.T if prefix and tensor.ndim == 2 else tensor
            target[f"{prefix}{HF_NAMES[module]}.{kind}"].copy_(value)
    return model


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_logits_equal_hugging_face(activation: str) -> None:
    gpt = noisy_gpt(SHAPE.model_copy(update={"activation": activation}))
    tokens = torch.randint(0, 101, (3, 24))
    with torch.no_grad():
        ours = gpt.logits(gpt(tokens))
        theirs = hugging_face(gpt, "GPT2LMHeadModel")(tokens).logits
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_the_two_gelus_differ() -> None:
    gpt = noisy_gpt()
    other = GPT(SHAPE.model_copy(update={"activation": "gelu_tanh"})).eval()
    other.load_state_dict(gpt.state_dict())
    tokens = torch.randint(0, 101, (1, 24))
    assert (gpt(tokens) - other(tokens)).abs().max() > 1e-5


def test_classifier_equals_hugging_face_on_padded_rows() -> None:
    gpt = noisy_gpt()
    classifier = Classifier(gpt, 5).eval()
    theirs = hugging_face(gpt, "GPT2ForSequenceClassification", num_labels=5, pad_token_id=100)
    with torch.no_grad():
        theirs.score.weight.copy_(classifier.head.weight)
        tokens = torch.randint(0, 100, (4, 20))
        lengths = torch.tensor([20, 7, 1, 13])
        tokens[torch.arange(20) >= lengths[:, None]] = 100
        expected = theirs(tokens).logits
        assert torch.allclose(classifier(tokens, lengths), expected, rtol=1e-5, atol=1e-5)


@given(cuts=st.lists(st.integers(1, 23), unique=True, max_size=6))
@settings(max_examples=20)
def test_cache_gives_the_same_however_the_text_is_cut(cuts: list[int]) -> None:
    gpt = noisy_gpt()
    tokens = torch.randint(0, 101, (2, 24))
    edges = [0, *sorted(cuts), 24]
    cache = Cache(2, SHAPE)
    with torch.no_grad():
        pieces = [gpt(tokens[:, a:b], cache=cache) for a, b in itertools.pairwise(edges)]
        assert torch.allclose(torch.cat(pieces, 1), gpt(tokens), atol=2e-5)


def test_document_mask_reads_each_document_alone() -> None:
    gpt = noisy_gpt()
    tokens = torch.randint(0, 101, (1, 20))
    documents = torch.tensor([[0] * 5 + [1] * 11 + [2] * 4])
    with torch.no_grad():
        together = gpt(tokens, documents)
        alone = [gpt(tokens[:, a:b]) for a, b in ((0, 5), (5, 16), (16, 20))]
    assert torch.allclose(together, torch.cat(alone, 1), atol=1e-5)


def test_too_long_a_text_is_refused() -> None:
    with pytest.raises(ValueError, match="25 tokens do not fit the context of 24"):
        noisy_gpt()(torch.zeros(1, 25, dtype=torch.long))


def test_initial_weights() -> None:
    shape = Model(n_layers=8, d_model=256, n_heads=4, seq_len=64, vocab_size=1000)
    gpt = GPT(shape).initialize(3)
    # A normal cut at two standard deviations has 0.8796 of its width left.
    left = 0.8796
    for name, parameter in gpt.named_parameters():
        if parameter.ndim == 1:
            expected = 1.0 if name.endswith("norm.weight") else 0.0
            assert (parameter == expected).all(), name
            continue
        std = 0.02 / (4 if name.endswith("out.weight") else 1)
        assert parameter.abs().max() <= 2 * std, name
        assert parameter.std().item() == pytest.approx(left * std, rel=0.03), name


def test_same_seed_same_weights() -> None:
    first, again, other = (GPT(SHAPE).initialize(seed) for seed in (7, 7, 8))
    assert torch.equal(first.embedding.weight, again.embedding.weight)
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "mean_max_last"])
def test_padding_never_reaches_the_scores(pooling: Any) -> None:
    classifier = Classifier(noisy_gpt(), 3, pooling).eval()
    text = torch.randint(0, 101, (1, 9))
    with torch.no_grad():
        alone = classifier(text, torch.tensor([9]))
        padded = torch.cat([text, torch.randint(0, 101, (1, 11))], 1)
        assert torch.allclose(classifier(padded, torch.tensor([9])), alone, atol=1e-6)
