from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from wafergpt import config
from wafergpt.config import Model
from wafergpt.config.system import Precision
from wafergpt.engines.optimizers import Optimizer
from wafergpt.errors import InputError
from wafergpt.model.gpt import GPT
from wafergpt.model.loss import next_token_loss
from wafergpt.model.ngrams import use_sparse_gradients

SHAPE = Model(n_layers=2, d_model=16, n_heads=2, seq_len=8, vocab_size=31)


def settings(**changes: object) -> config.Optimizer:
    return config.Optimizer.model_validate({"clip": 0, **changes})


def gradients(network: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)


def train(network: nn.Module, optimizer: Optimizer, first: int, steps: int) -> None:
    for step in range(first, first + steps):
        gradients(network, step)
        optimizer.step(1e-2)


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_adamw_equals_torch_and_spares_biases_and_norms() -> None:
    ours = GPT(SHAPE).initialize(0)
    theirs = copy.deepcopy(ours)
    optimizer = Optimizer(ours.named_parameters(), settings(weight_decay=0.3, eps=1e-9))
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, 1e-2, (0.9, 0.95), 1e-9)
    for step in range(5):
        gradients(ours, step)
        optimizer.step(1e-2)
        gradients(theirs, step)
        reference.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_l2_is_in_the_gradient_and_decay_is_not() -> None:
    """Under SGD without momentum, L2 is torch's ``weight_decay``, on matrices only."""
    ours = GPT(SHAPE).initialize(0)
    theirs = copy.deepcopy(ours)
    optimizer = Optimizer(
        ours.named_parameters(), settings(name="sgd", momentum=0, l2=0.5, weight_decay=0)
    )
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": 0.5},
        {"params": vectors},
    ]
    reference = torch.optim.SGD(groups, 1e-2)
    gradients(ours, 0)
    optimizer.step(1e-2)
    gradients(theirs, 0)
    reference.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_l2_and_decay_differ_under_adam() -> None:
    start = GPT(SHAPE).initialize(0)
    networks = []
    for changes in ({"l2": 0.5, "weight_decay": 0.0}, {"l2": 0.0, "weight_decay": 0.5}):
        network = copy.deepcopy(start)
        train(network, Optimizer(network.named_parameters(), settings(**changes)), 0, 2)
        networks.append(network)
    assert not same(*networks)


def test_clipping_equals_torch() -> None:
    network = GPT(SHAPE).initialize(0)
    gradients(network, 0)
    kept = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    expected = torch.nn.utils.clip_grad_norm_(network.parameters(), 0.7)
    clipped = copy.deepcopy(network)
    plain = torch.optim.SGD(clipped.parameters(), 1.0)
    for parameter, mine in zip(clipped.parameters(), network.parameters(), strict=True):
        parameter.grad = None if mine.grad is None else mine.grad.clone()
    plain.step()
    for parameter, gradient in zip(network.parameters(), kept, strict=True):
        parameter.grad = gradient
    optimizer = Optimizer(
        network.named_parameters(), settings(name="sgd", momentum=0, weight_decay=0, clip=0.7)
    )
    assert float(optimizer.grad_norm()) == pytest.approx(expected.item())
    optimizer.step(1.0)
    for a, b in zip(network.parameters(), clipped.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_muon_moves_only_the_matrices_inside_the_blocks(precision: Precision) -> None:
    """With the learning rate's size of AdamW's: each update's RMS is 0.2 of it."""
    network = GPT(SHAPE).initialize(0)
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    chosen = settings(name="muon", weight_decay=0)
    optimizer = Optimizer(network.named_parameters(), chosen, precision=precision)
    train(network, optimizer, 0, 1)
    keys = {
        name.rpartition("/")[2] for name in optimizer.state_tensors() if ".ffn.up.weight" in name
    }
    assert keys == {"momentum_buffer"}
    assert "embedding.weight/exp_avg" in optimizer.state_tensors()
    change = network.get_parameter("blocks.0.ffn.up.weight") - before["blocks.0.ffn.up.weight"]
    assert change.square().mean().sqrt().item() == pytest.approx(0.2e-2, rel=0.25)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "muon"])
def test_state_survives_a_round_trip(name: str) -> None:
    chosen = settings(name=name, weight_decay=0.1 if name in {"adamw", "muon"} else 0)
    straight = GPT(SHAPE).initialize(0)
    optimizer = Optimizer(straight.named_parameters(), chosen)
    train(straight, optimizer, 0, 3)
    resumed = copy.deepcopy(straight)
    again = Optimizer(resumed.named_parameters(), chosen)
    again.load_state_tensors(optimizer.state_tensors())
    train(straight, optimizer, 3, 3)
    train(resumed, again, 3, 3)
    assert same(straight, resumed)


def test_a_state_of_another_shape_is_refused() -> None:
    small, large = GPT(SHAPE), GPT(SHAPE.model_copy(update={"d_model": 32, "d_ffn": 128}))
    optimizer = Optimizer(small.initialize(0).named_parameters(), settings())
    train(small, optimizer, 0, 1)
    other = Optimizer(large.named_parameters(), settings())
    with pytest.raises(ValueError, match="fits no parameter"):
        other.load_state_tensors(optimizer.state_tensors())


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_no_decoupled_decay_where_there_is_none(name: str) -> None:
    with pytest.raises(InputError, match=r"optimizer\.weight_decay=0"):
        Optimizer(GPT(SHAPE).named_parameters(), settings(name=name, weight_decay=0.1))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_tables_have_their_own_rate_on_the_same_schedule(name: str) -> None:
    """The first step of a row is as long as its rate, in the root mean square; none decays."""
    gpt = GPT(SHAPE.model_copy(update={"ngrams": (2,), "ngram_rows": 50})).initialize(0)
    optimizer = Optimizer(gpt.named_parameters(), settings(name=name, lr=1e-3, ngram_lr_factor=300))
    use_sparse_gradients(gpt)
    tokens = torch.randint(31, (2, 8))
    next_token_loss(gpt(tokens), gpt.head, tokens).backward()
    assert gpt.ngrams is not None
    table = gpt.ngrams.tables[0].weight
    assert isinstance(table, torch.Tensor)
    assert table.grad is not None
    assert table.grad.is_sparse
    norm = float(optimizer.grad_norm())
    whole = [p.grad.to_dense() for p in gpt.parameters() if p.grad is not None]
    assert norm == pytest.approx(float(torch.cat([g.flatten() for g in whole]).norm()))
    # Halfway down the schedule.
    optimizer.step(0.5e-3)
    moved = table.detach().square().mean(1).sqrt()
    read = moved > 0
    assert 0 < read.sum() <= 16
    assert moved[read] == pytest.approx(0.15, rel=1e-3)
    fresh = Optimizer(gpt.named_parameters(), settings(name=name, lr=1e-3, ngram_lr_factor=300))
    fresh.load_state_tensors(optimizer.state_tensors())
    assert torch.equal(
        fresh.state_tensors()["ngrams.tables.0.weight/squares"],
        optimizer.state_tensors()["ngrams.tables.0.weight/squares"],
    )
