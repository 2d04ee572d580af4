from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from wafergpt.model import loss as losses
from wafergpt.model.loss import (
    SoftTargets,
    classification_loss,
    next_token_loss,
    sampled_softmax_loss,
)


@given(
    rows=st.integers(1, 40),
    vocab=st.integers(2, 70),
    hidden_share=st.floats(0, 0.9),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40)
def test_chunked_loss_and_gradients_equal_torch(
    rows: int, vocab: int, hidden_share: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(2, rows, 8, generator=generator, requires_grad=True)
    weight = torch.randn(vocab, 8, generator=generator, requires_grad=True)
    targets = torch.randint(0, vocab, (2, rows), generator=generator)
    targets[torch.rand(2, rows, generator=generator) < hidden_share] = -100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "head_chunk_rows", lambda *_: 17)
        ours = next_token_loss(hidden, weight, targets)
    gradients = torch.autograd.grad(ours * 0.3, (hidden, weight))
    logits = F.linear(hidden, weight)
    theirs = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    expected = torch.autograd.grad(theirs * 0.3, (hidden, weight))
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    for ours_, theirs_ in zip(gradients, expected, strict=True):
        assert torch.allclose(ours_, theirs_, rtol=1e-4, atol=1e-5)


def test_an_evaluation_pays_for_no_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 9, 8, generator=generator)
    weight = torch.randn(31, 8, generator=generator, requires_grad=True)
    targets = torch.randint(0, 31, (2, 9), generator=generator)
    learned = next_token_loss(hidden, weight, targets)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert torch.equal(next_token_loss(hidden, weight, targets), learned)
    assert counter.get_total_flops() == 2 * 18 * 31 * 8


@given(
    rows=st.integers(1, 40), vocab=st.integers(2, 70), share=st.floats(0, 1),
    scale=st.sampled_from([0.1, 1.0, 20.0]), seed=st.integers(0, 1000),
)  # fmt: skip
@settings(max_examples=40)
def test_a_share_of_the_loss_is_torchs_divergence(
    rows: int, vocab: int, share: float, scale: float, seed: int
) -> None:
    """From another model of another width, in chunks; with hidden targets."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(2, rows, 8, generator=generator, requires_grad=True)
    weight = torch.randn(vocab, 8, generator=generator, requires_grad=True)
    soft = SoftTargets(
        scale * torch.randn(2, rows, 5, generator=generator),
        torch.randn(vocab, 5, generator=generator),
        share,
    )
    targets = torch.randint(0, vocab, (2, rows), generator=generator)
    targets[torch.rand(2, rows, generator=generator) < 0.3] = -100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "head_chunk_rows", lambda *_: 17)
        ours = next_token_loss(hidden, weight, targets, soft)
    gradients = torch.autograd.grad(ours * 0.3, (hidden, weight))
    kept = targets.flatten() != -100
    logits = F.linear(hidden, weight).flatten(0, 1)[kept]
    logs = logits.log_softmax(1), F.linear(soft.hidden, soft.weight).flatten(0, 1)[kept]
    hard = F.cross_entropy(logits, targets.flatten()[kept], reduction="sum")
    softly = F.kl_div(logs[0], logs[1].log_softmax(1), reduction="sum", log_target=True)
    theirs = (1 - share) * hard + share * softly
    expected = torch.autograd.grad(theirs * 0.3, (hidden, weight))
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-3)
    for ours_, theirs_ in zip(gradients, expected, strict=True):
        assert torch.allclose(ours_, theirs_, rtol=1e-4, atol=1e-5)


def test_a_divergence_in_bf16_is_near() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 30, 16), torch.randn(90, 16)
    soft = SoftTargets(torch.randn(2, 30, 8), torch.randn(90, 8), 0.7)
    targets = torch.randint(0, 90, (2, 30))
    exact = next_token_loss(hidden, weight, targets, soft)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = next_token_loss(hidden, weight, targets, soft)
    assert rounded != exact
    assert rounded.item() == pytest.approx(exact.item(), rel=0.01)


def test_chunked_loss_never_holds_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    softmax = losses.softmax_gradient

    def spy(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(logits.numel())
        return softmax(logits, targets)

    monkeypatch.setattr(losses, "softmax_gradient", spy)
    monkeypatch.setattr(losses, "head_chunk_rows", lambda *_: 100)
    hidden = torch.randn(4, 200, 8, requires_grad=True)
    weight = torch.randn(50, 8, requires_grad=True)
    next_token_loss(hidden, weight, torch.zeros(4, 200, dtype=torch.long))
    assert len(seen) == 8
    assert max(seen) <= 100 * 50


def test_chunked_loss_in_bf16_is_near() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 30, 16), torch.randn(90, 16)
    targets = torch.randint(0, 90, (2, 30))
    exact = next_token_loss(hidden, weight, targets)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = next_token_loss(hidden, weight, targets)
    assert rounded != exact
    assert rounded.item() == pytest.approx(exact.item(), rel=0.01)


@given(rows=st.integers(1, 12), vocab=st.integers(2, 40), seed=st.integers(0, 1000))
@settings(max_examples=30)
def test_a_sample_of_everything_is_the_exact_loss(rows: int, vocab: int, seed: int) -> None:
    torch.manual_seed(seed)
    hidden = torch.randn(2, rows, 8, requires_grad=True)
    weight = torch.randn(vocab, 8, requires_grad=True)
    targets = torch.randint(0, vocab, (2, rows))
    targets[torch.rand(2, rows) < 0.3] = -100
    exact = next_token_loss(hidden, weight, targets)
    sampled = sampled_softmax_loss(hidden, weight, targets, vocab)
    assert torch.allclose(sampled, exact, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(sampled, (hidden, weight)),
        torch.autograd.grad(exact, (hidden, weight)),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_sampled_softmax_is_right_on_average() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(1, 6, 16), torch.randn(200, 16)
    targets = torch.randint(0, 200, (1, 6))
    # exp of one row's loss plus its target's logit is the softmax's denominator.
    row = hidden[:, :1], weight, targets[:, :1]
    exact = (next_token_loss(*row) + (row[0] @ weight.T)[0, 0, row[2][0, 0]]).exp()
    sampled = [
        (sampled_softmax_loss(*row, 50) + (row[0] @ weight.T)[0, 0, row[2][0, 0]]).exp()
        for _ in range(2000)
    ]
    assert torch.stack(sampled).mean().item() == pytest.approx(exact.item(), rel=0.03)
    assert torch.stack(sampled).std() > 0


def test_bf16_loses_neither_certain_nor_impossible_targets() -> None:
    """Against fp64 on the same rounded logits."""
    logits = torch.zeros(3, 1000).bfloat16()
    logits[0, 7] = 16.0  # p = 1 - 1e-4: nearer to 1 than bf16 can say
    logits[1, 7] = 150.0  # the target's probability underflows
    targets = torch.tensor([7, 3, 3])
    values, gradient = losses.softmax_gradient(logits, targets)
    wide = logits.double().requires_grad_()
    exact = F.cross_entropy(wide, targets, reduction="none")
    exact.sum().backward()
    assert wide.grad is not None
    assert torch.allclose(values.double(), exact.detach(), rtol=0.005, atol=0)
    assert torch.allclose(gradient.double(), wide.grad, rtol=0.008, atol=1e-30)


SCORES = torch.tensor([[1.0, -2.0, 0.5], [0.1, 0.2, 0.3]])
TARGETS = torch.tensor([2, 0])


def test_cross_entropy_equals_torch() -> None:
    ours = classification_loss(SCORES, TARGETS, "cross_entropy", 0.1)
    assert ours == F.cross_entropy(SCORES, TARGETS, reduction="sum", label_smoothing=0.1)


def test_class_weights_weigh_rows() -> None:
    weights = torch.tensor([2.0, 0.5])
    ours = classification_loss(SCORES, TARGETS, weights=weights)
    single = F.cross_entropy(SCORES, TARGETS, reduction="none")
    assert ours.item() == pytest.approx((single * weights).sum().item())


def test_binary_is_the_two_class_loss_of_a_single_score() -> None:
    score, target = torch.tensor([[0.7], [-1.2]]), torch.tensor([1, 0])
    both = torch.cat([torch.zeros(2, 1), score], 1)
    ours = classification_loss(score, target, "binary")
    assert ours.item() == pytest.approx(F.cross_entropy(both, target, reduction="sum").item())
    # Smoothing mixes in the answer "either": arXiv:1512.00567, section 7.
    smooth = classification_loss(score, target, "binary", 0.2)
    expected = F.cross_entropy(both, target, reduction="sum", label_smoothing=0.2)
    assert smooth.item() == pytest.approx(expected.item())


def test_squared_error() -> None:
    ours = classification_loss(
        torch.tensor([[1.0], [3.0]]), torch.tensor([0.5, 1.0]), "squared_error"
    )
    assert ours.item() == pytest.approx(0.25 + 4.0)
