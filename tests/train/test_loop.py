"""The loop's arithmetic, against plain torch."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from wafergpt.config import Recipe, load_recipe
from wafergpt.data.batches import Batch, LanguageBatches
from wafergpt.model.gpt import GPT
from wafergpt.run import Run
from wafergpt.train.callbacks.evaluation import Evaluation
from wafergpt.train.callbacks.saving import Saving
from wafergpt.train.loop import Loop, reseed
from wafergpt.train.optimizers import Optimizer
from wafergpt.train.pretrain import language_flops, language_objective
from wafergpt.train.state import Row, TrainState

SETTINGS = [
    "model.n_layers=1", "model.d_model=16", "model.n_heads=2", "model.seq_len=8",
    "model.vocab_size=31", "train.batch_size=12", "train.micro_batch_size=12", "train.steps=6",
    "system.precision=fp32", "optimizer.lr=1e-2", "schedule.warmup=2", "optimizer.clip=0.5",
]  # fmt: skip


class Tokens:
    def __len__(self) -> int:
        return 2000

    def take(self, start: int, length: int) -> NDArray[np.integer]:
        return (np.arange(start, start + length) * 7 % 31).astype(np.int64)


def loop_of(*overrides: str, documents: bool = False, callbacks: Any = ()) -> Loop:
    recipe: Recipe = load_recipe(None, [*SETTINGS, *overrides])
    gpt = GPT(recipe.model).initialize(0)
    state = TrainState(gpt, Optimizer(gpt.named_parameters(), recipe.optimizer))
    batches = LanguageBatches(Tokens(), 8, "f", 0, end_of_text=3 if documents else None)
    return Loop(
        recipe, state, batches, language_objective, callbacks, lambda _: None,
        torch.device("cpu"), language_flops, lambda: None, 1e9,
    )  # fmt: skip


def test_a_step_is_what_plain_torch_does() -> None:
    loop = loop_of()
    gpt = copy.deepcopy(loop.state.model)
    assert isinstance(gpt, GPT)
    decayed = [p for p in gpt.parameters() if p.ndim == 2]
    rest = [p for p in gpt.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, 1e-2, (0.9, 0.95), 1e-8)
    # Cosine to a tenth after two steps of warm-up.
    factors = [1 / 3, 2 / 3] + [1 - 0.9 * (1 - math.cos(math.pi * i / 3)) / 2 for i in range(4)]
    for step, factor in enumerate(factors):
        row = loop.step(6)
        batch = loop.batches.batch(step * 12, 12)
        logits = gpt.logits(gpt(batch.tokens))
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(gpt.parameters(), 0.5)
        for group in reference.param_groups:
            group["lr"] = 1e-2 * factor
        reference.step()
        reference.zero_grad()
        assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert row["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
        assert row["lr"] == pytest.approx(1e-2 * factor)
        assert row["tokens"] == (step + 1) * 96
    for ours, theirs in zip(loop.state.model.parameters(), gpt.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_smaller_first_batch_moves_the_schedule_by_what_was_read() -> None:
    phases = ("train.first_steps=3", "train.first_batch_size=6", "train.micro_batch_size=6")
    loop = loop_of(*phases, "schedule.warmup=0", "schedule.name=linear", "schedule.final=0")
    rows = [loop.step(6) for _ in range(6)]
    assert [row["tokens"] for row in rows] == [48, 96, 144, 240, 336, 432]
    # 54 sequences in all, which is 4.5 steps of 12: the last one begins at 3.5.
    places = [0, 0.5, 1, 1.5, 2.5, 3.5]
    assert [row["lr"] for row in rows] == pytest.approx([1e-2 * (1 - p / 3.5) for p in places])
    other = loop_of("train.micro_batch_size=6")
    batch = loop.batches.batch(18, 12)
    assert torch.equal(batch.tokens, other.batches.batch(18, 12).tokens)
    assert loop.state.samples == 54


@pytest.mark.parametrize("micro", [1, 3, 4])
def test_the_loss_is_a_token_mean_whatever_the_micro_batch(micro: int) -> None:
    """With document ends, micro-batches have different numbers of targets."""
    whole = loop_of(documents=True)
    parts = loop_of(f"train.micro_batch_size={micro}", documents=True)
    weights = {whole.batches.batch(first, 1).weight for first in range(12)}
    assert len(weights) > 1
    for _ in range(4):
        expected, row = whole.step(6), parts.step(6)
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-6)
        assert row["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-5)


@pytest.mark.parametrize("noise_of", ["model.dropout=0.5", "train.sampled_softmax=4"])
def test_noise_repeats_from_its_place_alone(noise_of: str) -> None:
    losses = []
    for noise in (0, 1):
        loop = loop_of(noise_of)
        torch.manual_seed(noise)
        losses.append([loop.step(6)["loss"] for _ in range(3)])
    assert losses[0] == losses[1]
    draws = set()
    for place in itertools.product((0, 1), repeat=4):
        reseed(*place)
        draws.add(torch.rand(1).item())
    assert len(draws) == 16


def test_a_sampled_softmax_is_for_training_only() -> None:
    exact, sampled = loop_of(), loop_of("train.sampled_softmax=2")
    batch = exact.batches.batch(0, 1)
    for loop in (exact, sampled):
        loop.state.model.eval()
    assert torch.equal(sampled.forward(batch), exact.forward(batch))
    sampled.state.model.train()
    assert not torch.equal(sampled.forward(batch), exact.forward(batch))


def evaluations(scores: list[float], **settings: object) -> tuple[list[int], TrainState, list[int]]:
    """Run a loop whose judge says ``scores``; return when it was asked, and what was saved."""
    asked: list[int] = []
    saved: list[int] = []
    told = iter(scores)
    recipe = load_recipe(None, [f"evaluate.{k}={v}" for k, v in settings.items()])
    loop = loop_of("train.steps=20")

    def judge() -> dict[str, float]:
        asked.append(loop.state.step)
        score = next(told)
        return {"val_loss": score, "val_accuracy": score}

    loop.callbacks = [
        Evaluation(judge, recipe.evaluate, 20),
        Saving(100, 20, lambda state: saved.append(state.step)),
    ]
    loop.run()
    return asked, loop.state, saved


def test_the_best_is_kept_and_patience_ends_the_run() -> None:
    scores = [3.0, 2.0, 2.5, 2.5, 2.5, 1.0, 1.0, 1.0]
    asked, state, saved = evaluations(scores, every=2, patience=3)
    assert asked == [2, 4, 6, 8, 10]
    assert (state.best, state.best_step, state.step, state.finished) == (2.0, 4, 10, True)
    assert saved == [2, 4, 10]


def test_without_patience_it_goes_to_the_end_and_accuracy_counts_upwards() -> None:
    asked, state, saved = evaluations([0.5, 0.6, 0.6], every=8, metric="accuracy")
    assert asked == [8, 16, 20]
    assert (state.best, state.best_step, state.finished) == (0.6, 16, False)
    assert saved == [8, 16, 20]


def test_any_objective_will_do() -> None:
    loop = loop_of()

    def far(recipe: Recipe, model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, GPT)
        return (model(batch.tokens) ** 2).sum()

    loop.objective = far
    assert loop.step(6)["loss"] > 0


def counted(loop: Loop) -> int:
    """Return what torch counts in a step's passes, attention by plain products."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loop.gradients(0, 12)
    loop.discard()
    return int(counter.get_total_flops())


@pytest.mark.parametrize(
    "settings",
    [(), ("train.micro_batch_size=4",), ("train.sampled_softmax=4", "train.micro_batch_size=3"),
     ("model.tied=false",), ("train.sampled_softmax=31",)],
)  # fmt: skip
@pytest.mark.parametrize("documents", [False, True])
def test_the_flops_of_a_step_are_those_that_torch_counts(
    settings: tuple[str, ...], documents: bool
) -> None:
    loop = loop_of(*settings, documents=documents)
    assert loop.gradients(0, 12)[2] == counted(loop)


def test_what_an_older_checkpoint_did_not_count_is_made_up_for() -> None:
    loop = loop_of()
    loop.state.take_scalars({"step": 2, "samples": 24, "tokens": 2 * 12 * 8})
    assert loop.step(6)["flops"] == 3 * counted(loop_of())


def test_rows_reach_the_run_folder(tmp_path: Path) -> None:
    run = Run.create(load_recipe(None, ["name=r"]), tmp_path)

    class Log:
        def after_step(self, state: TrainState, row: Row) -> None:
            run.log(row)

    loop_of(callbacks=[Log()]).run()
    rows = run.metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    flops = counted(loop_of())
    assert [row["flops"] for row in rows] == [flops * row["step"] for row in rows]
    seconds = rows[-1]["seconds"] - rows[-2]["seconds"]
    assert rows[-1]["mfu"] == pytest.approx(flops / seconds / 1e9)
    assert rows[-1]["seconds"] > rows[0]["seconds"] > 0
