"""The arithmetic of an update, against plain torch."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.train.trainers import engine_of, updates
from wafergpt.engines.base import Decision, UpdateResult, reseed
from wafergpt.engines.torch import TorchEngine
from wafergpt.model.gpt import GPT
from wafergpt.tasks.base import gpt_of


def test_an_update_is_what_plain_torch_does() -> None:
    engine = engine_of()
    gpt = copy.deepcopy(gpt_of(engine.network))
    decayed = [p for p in gpt.parameters() if p.ndim == 2]
    rest = [p for p in gpt.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, 1e-2, (0.9, 0.95), 1e-8)
    # Cosine to a tenth after two steps of warm-up.
    factors = [1 / 3, 2 / 3] + [1 - 0.9 * (1 - math.cos(math.pi * i / 3)) / 2 for i in range(4)]
    for step, (factor, update) in enumerate(zip(factors, updates(engine), strict=True)):
        batch = engine._splits.train.batch(step * 12, 12)
        logits = gpt.logits(gpt(batch["tokens"]))
        loss = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(gpt.parameters(), 0.5)
        for group in reference.param_groups:
            group["lr"] = 1e-2 * factor
        reference.step()
        reference.zero_grad()
        assert update.loss == pytest.approx(loss.item(), rel=1e-5)
        assert update.grad_norm == pytest.approx(norm.item(), rel=1e-4)
        assert update.lr == pytest.approx(1e-2 * factor)
        assert (update.step, update.samples, update.tokens) == (step + 1, 12 * (step + 1), 96)
    for ours, theirs in zip(engine.network.parameters(), gpt.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_smaller_first_batch_moves_the_schedule_by_what_was_read() -> None:
    phases = ("train.first_steps=3", "train.first_batch_size=6", "train.micro_batch_size=6")
    engine = engine_of(*phases, "schedule.warmup=0", "schedule.name=linear", "schedule.final=0")
    found = list(updates(engine))
    assert [update.tokens for update in found] == [48, 48, 48, 96, 96, 96]
    # 54 sequences in all, which is 4.5 steps of 12: the last one begins at 3.5.
    places = [0, 0.5, 1, 1.5, 2.5, 3.5]
    assert [update.lr for update in found] == pytest.approx([1e-2 * (1 - p / 3.5) for p in places])
    assert found[-1].samples == 54


@pytest.mark.parametrize("micro", [1, 3, 4])
def test_the_loss_is_a_token_mean_whatever_the_micro_batch(micro: int) -> None:
    """With document ends, micro-batches have different numbers of targets."""
    whole = engine_of(documents=True)
    parts = engine_of(f"train.micro_batch_size={micro}", documents=True)
    assert len({whole._splits.train.batch(first, 1).weight for first in range(12)}) > 1
    for expected, update in zip(updates(whole), updates(parts), strict=True):
        assert update.loss == pytest.approx(expected.loss, rel=1e-6)
        assert update.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)


@pytest.mark.parametrize("noise_of", ["model.dropout=0.5", "train.sampled_softmax=4"])
def test_noise_repeats_from_its_place_alone(noise_of: str) -> None:
    losses = []
    for noise in (0, 1):
        engine = engine_of(noise_of)
        torch.manual_seed(noise)
        losses.append([update.loss for update in updates(engine)])
    assert losses[0] == losses[1]
    draws = set()
    for seed, step, micro, rank in itertools.product((0, 1), repeat=4):
        reseed(seed, step, micro, rank, "cpu")
        draws.add(torch.rand(1).item())
        # Which is faster, and the same.
        reseed(seed, step, micro, rank, "cuda")
        draws.add(torch.rand(1).item())
    assert len(draws) == 16


def test_a_sampled_softmax_is_for_training_only() -> None:
    exact, sampled = engine_of(), engine_of("train.sampled_softmax=2")
    batch = exact._splits.train.batch(0, 1)

    def loss(training: bool) -> list[float]:
        engines = (exact, sampled)
        return [e._task.loss(e.network.train(training), batch).item() for e in engines]

    assert len(set(loss(training=False))) == 1
    assert len(set(loss(training=True))) == 2


@pytest.mark.parametrize("decision", [Decision.SKIP, Decision.ROLLBACK])
def test_a_skipped_update_moves_nothing(decision: Decision) -> None:
    engine = engine_of()
    before = [p.clone() for p in engine.network.parameters()]
    asked: list[int] = []

    def decide(update: UpdateResult) -> Decision:
        asked.append(update.step)
        return decision

    found = list(engine.updates(0, 0, 3, (), decide, lambda: None))
    # After a rollback, another state is loaded before training continues.
    assert asked == [u.step for u in found] == ([1] if decision is Decision.ROLLBACK else [1, 2, 3])
    for ours, theirs in zip(engine.network.parameters(), before, strict=True):
        assert torch.equal(ours, theirs)
    assert engine.state().tensors["optimizer"] == {}


def counted(engine: TorchEngine) -> int:
    """Return what torch counts in an update's passes, attention by plain products."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        engine._gradients(0, 0, 12)
    return int(counter.get_total_flops())


@pytest.mark.parametrize(
    "settings",
    [(), ("train.micro_batch_size=4",), ("train.sampled_softmax=4", "train.micro_batch_size=3"),
     ("model.tied=false",), ("train.sampled_softmax=31",)],
)  # fmt: skip
@pytest.mark.parametrize("documents", [False, True])
def test_the_flops_of_an_update_are_those_that_torch_counts(
    settings: tuple[str, ...], documents: bool
) -> None:
    first = next(updates(engine_of(*settings, documents=documents)))
    assert first.flops == counted(engine_of(*settings, documents=documents))


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_an_evaluation_is_the_mean_over_its_samples_whatever_the_micro_batch(micro: int) -> None:
    asked = ("train.batch_size=4", f"train.micro_batch_size={micro}", "evaluate.batches=3")
    engine = engine_of(*asked, documents=True)
    task, validation = engine._task, engine._splits.held_out
    samples = task.evaluation_samples(validation.batches)
    assert samples == 12
    found = task.compute_metrics(
        engine.outputs(range(samples), task.evaluation_rows(), lambda: None), validation.references
    )
    gpt = engine.network.eval()
    assert isinstance(gpt, GPT)
    batch = validation.batches.batch(0, 12)
    logits = gpt.logits(gpt(batch["tokens"], batch["documents"])).flatten(0, 1)
    expected = F.cross_entropy(logits, batch["targets"].flatten())
    assert found["loss"] == pytest.approx(expected.item(), rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(found["loss"] / 2 / math.log(2))


def test_a_stop_is_heard_between_two_passes_of_an_evaluation() -> None:
    class StopAsked(Exception):
        pass

    engine, passes = engine_of(), []

    def poll() -> None:
        passes.append(0)
        if len(passes) == 3:
            raise StopAsked

    with pytest.raises(StopAsked):
        engine.outputs(range(40), 4, poll)
    assert len(passes) == 3
