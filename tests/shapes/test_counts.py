from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from wafergpt.config import Model, load_recipe, shipped_recipes
from wafergpt.model.gpt import GPT
from wafergpt.model.heads import Classifier
from wafergpt.shapes.counts import (
    dense_parameters,
    non_embedding_parameters,
    parameters,
    published_flops,
    training_flops,
)
from wafergpt.tasks.text_settings import TextTaskSettings

# Name, layers, width, heads, published parameters, tokens and FLOPs: arXiv:2304.03208, tables 1, 2.
FAMILY = [
    ("111M", 10, 768, 12, 111_050_496, 2.22e9, 2.6e18),
    ("256M", 14, 1088, 17, 255_977_024, 5.12e9, 1.3e19),
    ("590M", 18, 1536, 12, 590_310_912, 1.18e10, 6.1e19),
    ("1.3B", 24, 2048, 16, 1_315_723_264, 2.63e10, 2.8e20),
    ("2.7B", 32, 2560, 32, 2_651_553_280, 5.30e10, 1.1e21),
    ("6.7B", 32, 4096, 32, 6_658_404_352, 1.33e11, 6.3e21),
    ("13B", 40, 5120, 40, 12_853_386_240, 2.57e11, 2.3e22),
]


def family_shape(n_layers: int, d_model: int, n_heads: int) -> Model:
    return Model.model_validate(
        {
            "n_layers": n_layers,
            "d_model": d_model,
            "n_heads": n_heads,
            "seq_len": 2048,
            "vocab_size": 50257,
        }
    )


@pytest.mark.parametrize(("name", "n_layers", "d_model", "n_heads", "published", "_", "__"), FAMILY)
def test_published_parameter_counts_to_the_unit(
    name: str, n_layers: int, d_model: int, n_heads: int, published: int, _: float, __: float
) -> None:
    assert parameters(family_shape(n_layers, d_model, n_heads)) == published


@pytest.mark.parametrize(("name", "n_layers", "d_model", "n_heads", "_", "tokens", "flops"), FAMILY)
def test_published_flops_to_the_digits_printed(
    name: str, n_layers: int, d_model: int, n_heads: int, _: int, tokens: float, flops: float
) -> None:
    count = published_flops(family_shape(n_layers, d_model, n_heads)) * tokens
    assert f"{count:.1e}" == f"{flops:.1e}"


SHIPPED = [(name, load_recipe(name)) for name in shipped_recipes()]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model"), [(n, r.model) for n, r in SHIPPED if not r.task])
def test_flops_are_those_that_torch_counts(name: str, model: Model) -> None:
    """On the meta device attention is plain products, and the counter sees each of them."""
    shape = model.model_copy(update={"vocab_size": model.vocab_size or 16384})
    with torch.device("meta"):
        gpt = GPT(shape)
        tokens = torch.zeros(1, shape.seq_len, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            F.cross_entropy(gpt.logits(gpt(tokens))[0], tokens[0]).backward()
    assert training_flops(shape) == pytest.approx(counter.get_total_flops(), rel=1e-6)


@pytest.mark.parametrize("name", [name for name, recipe in SHIPPED if recipe.task])
def test_flops_of_a_classifier_are_those_that_torch_counts(name: str) -> None:
    """Two rows of 96 tokens, with what pads them; the embedding of 16,384 is only looked up."""
    base, task = load_recipe(name.removesuffix("-classify")).model, load_recipe(name).task
    assert isinstance(task, TextTaskSettings)
    shape = base.model_copy(update={"vocab_size": 16384})
    with torch.device("meta"):
        network = Classifier(GPT(shape), 77, task.pooling)
        tokens, lengths = torch.zeros(2, 96, dtype=torch.long), torch.zeros(2, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            network(tokens, lengths).sum().backward()
    counted = 2 * training_flops(shape, 96, 0, network.head.weight.numel())
    assert counted == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_an_untied_head_multiplies_as_much_as_a_tied_one() -> None:
    tied = family_shape(2, 64, 2)
    untied = tied.model_copy(update={"tied": False})
    with torch.device("meta"):
        gpt, tokens = GPT(untied), torch.zeros(1, 2048, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            gpt.logits(gpt(tokens)).sum().backward()
    assert training_flops(untied) == training_flops(tied) == counter.get_total_flops()


@given(
    n_layers=st.integers(1, 4),
    n_heads=st.integers(1, 4),
    width=st.integers(1, 12),
    d_ffn=st.integers(1, 60),
    seq_len=st.integers(1, 40),
    vocab_size=st.integers(1, 200),
    orders=st.sets(st.integers(2, 8)),
)
@settings(max_examples=30)
def test_counts_are_those_of_the_network(
    n_layers: int,
    n_heads: int,
    width: int,
    d_ffn: int,
    seq_len: int,
    vocab_size: int,
    orders: set[int],
) -> None:
    shape = Model(
        n_layers=n_layers,
        n_heads=n_heads,
        d_model=n_heads * width,
        d_ffn=d_ffn,
        seq_len=seq_len,
        vocab_size=vocab_size,
        ngrams=tuple(sorted(orders)),
        ngram_rows=11,
    )
    with torch.device("meta"):
        gpt = GPT(shape)
    assert parameters(shape) == sum(p.numel() for p in gpt.parameters())
    ngrams = 0 if gpt.ngrams is None else sum(p.numel() for p in gpt.ngrams.parameters())
    assert dense_parameters(shape) == parameters(shape) - ngrams
    tables = gpt.embedding.weight.numel() + gpt.position.weight.numel()
    assert non_embedding_parameters(shape) == dense_parameters(shape) - tables


def test_an_unknown_vocabulary_cannot_be_counted() -> None:
    with pytest.raises(ValueError, match="vocab_size must be known"):
        parameters(Model.model_validate({}))
