"""Sick numbers: which updates are left out, and what the run remembers of them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.train.test_loop import loop_of
from wafergpt.config import Recipe, load_recipe
from wafergpt.data.batches import Batch
from wafergpt.errors import RunFailed
from wafergpt.run import Run
from wafergpt.train import checkpoint
from wafergpt.train.loop import Loop
from wafergpt.train.pretrain import language_objective

SIZE = 12


def sicken(loop: Loop, step: int, factor: float) -> None:
    """Multiply the loss of the batch that an undisturbed run reads at ``step``, from 0 on."""
    bad = loop.batches.batch(step * SIZE, SIZE).tokens

    def objective(recipe: Recipe, model: nn.Module, batch: Batch) -> Tensor:
        loss = language_objective(recipe, model, batch)
        return loss * factor if torch.equal(batch.tokens, bad) else loss

    loop.objective = objective


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_moves_nothing_and_the_run_goes_on(number: float) -> None:
    loop = loop_of()
    sicken(loop, 2, number)
    for _ in range(2):
        loop.step(6)
    before = loop.state.weights_sha256(), loop.state.optimizer.state_tensors()
    moments = {name: tensor.clone() for name, tensor in before[1].items()}
    row = loop.step(6)
    assert loop.state.weights_sha256() == before[0]
    assert all(torch.equal(v, moments[k]) for k, v in loop.state.optimizer.state_tensors().items())
    assert "loss" not in row
    assert row["left_out"] == f"the loss is {number}"
    assert loop.state.skipped == [[24, 36, f"the loss is {number}"]]
    assert math.isfinite(loop.step(6)["loss"])
    assert (loop.state.step, loop.state.samples) == (4, 48)


def test_so_does_a_gradient() -> None:
    loop = loop_of()
    weight = next(loop.state.model.parameters())
    hook = weight.register_hook(lambda gradient: gradient * math.inf)
    before = loop.state.weights_sha256()
    row = loop.step(6)
    assert loop.state.weights_sha256() == before
    assert math.isfinite(row["loss"])
    assert "grad_norm" not in row
    assert row["left_out"].startswith("the gradient is")
    hook.remove()
    loop.step(6)
    assert loop.state.weights_sha256() != before


def test_a_run_that_left_out_too_much_has_diverged() -> None:
    loop = loop_of("guard.limit=3")
    with torch.no_grad():
        next(loop.state.model.parameters()).fill_(math.nan)
    with pytest.raises(RunFailed, match="the loss is nan at step 4, after 3 updates left out"):
        loop.run()
    assert loop.state.step == 3


def test_a_leap_is_left_out_only_where_the_recipe_watches_for_it() -> None:
    quiet, watched = loop_of("train.steps=30"), loop_of("train.steps=30", "guard.spike=6")
    for loop in (quiet, watched):
        sicken(loop, 20, 10.0)
        loop.run()
    assert quiet.state.skipped == []
    ((first, end, reason),) = watched.state.skipped
    assert (first, end) == (240, 252)
    assert reason.startswith("the loss leaps to")
    assert len(watched.state.recent) == 29


def test_going_back_to_the_first_checkpoint_drops_the_moments(tmp_path: Path) -> None:
    run = Run.create(load_recipe(None, ["name=r"]), tmp_path)
    loop = loop_of()
    checkpoint.save(loop.state, run, keep=2)
    first = loop.step(6)["loss"]
    losses = [loop.step(6)["loss"] for _ in range(4)]
    checkpoint.resume(loop.state, run)
    assert loop.state.optimizer.state_tensors() == {}
    assert [loop.step(6)["loss"] for _ in range(5)] == [first, *losses]


def test_a_roll_back_takes_the_last_checkpoint_and_passes_over_what_followed(
    tmp_path: Path,
) -> None:
    run = Run.create(load_recipe(None, ["name=r"]), tmp_path)

    def trained(leap: bool) -> Loop:
        loop = loop_of("train.steps=30", "guard.spike=6", "guard.action=rollback")
        loop.restore = lambda: checkpoint.resume(loop.state, run)
        loop.__post_init__()
        if leap:
            sicken(loop, 20, 10.0)
        while loop.state.step < 30:
            loop.step(30)
            if loop.state.step == 18 and not checkpoint.every(run):
                checkpoint.save(loop.state, run, keep=2)
        return loop

    state = trained(leap=True).state
    assert [span[:2] for span in state.skipped] == [[216, 252]]
    # Twelve updates are left after step 18, on the data behind the leap.
    assert (state.step, state.samples) == (30, 252 + 12 * 12)
    # The same comes out again, also when the run was killed before it could save.
    again = loop_of("train.steps=30", "guard.spike=6", "guard.action=rollback")
    again.restore = lambda: checkpoint.resume(again.state, run)
    again.__post_init__()
    sicken(again, 20, 10.0)
    checkpoint.resume(again.state, run)
    while again.state.step < 30:
        again.step(30)
    assert again.state.weights_sha256() == state.weights_sha256()
    assert again.state.scalars() | {"seconds": 0} == state.scalars() | {"seconds": 0}
