"""Which updates are skipped, and what the run remembers of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from benchmarks import soak
from tests.train.trainers import SETTINGS, trainer_of
from wafergpt.api import pretrain
from wafergpt.checkpoint import store
from wafergpt.checkpoint.format import weights_sha256
from wafergpt.data.batches import Batch
from wafergpt.errors import RunFailed
from wafergpt.tasks.language_model import LanguageModel
from wafergpt.train.trainer import Trainer

SIZE = 12


class Faulty(LanguageModel):
    """Multiplies the loss of one batch."""

    bad: ClassVar[Tensor | None] = None
    factor: ClassVar[float] = 1.0

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        loss = super().loss(network, batch)
        same = self.bad is not None and torch.equal(batch["tokens"], self.bad)
        return loss * self.factor if same and network.training else loss


def faulty(folder: Path, step: int, factor: float, *overrides: str) -> Trainer:
    """Return a trainer that meets a multiplied loss at ``step``, from 0 on."""

    class Here(Faulty):
        pass

    trainer = trainer_of(folder, "checkpoint.keep=99", *overrides, kind=Here)
    Here.bad, Here.factor = trainer.splits.train.batch(step * SIZE, SIZE)["tokens"], factor
    return trainer


def weights(trainer: Trainer) -> str:
    return weights_sha256(trainer.engine.network.state_dict())


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_non_finite_loss_moves_nothing_and_the_run_continues(
    tmp_path: Path, number: float
) -> None:
    trainer = faulty(tmp_path, 2, number, "checkpoint.every=1")
    trainer.train()
    rows = trainer.run.metrics()
    assert [row.get("skipped") for row in rows] == [
        None,
        None,
        f"the loss is {number}",
        *[None] * 3,
    ]
    assert ["loss" in row for row in rows] == [True, True, False, True, True, True]
    assert trainer.state.skipped == [[24, 36, f"the loss is {number}"]]
    assert trainer.run.read("result")["skipped_updates"] == trainer.state.skipped
    assert trainer.state.samples == 72
    files = [trainer.run.checkpoints / f"step-{n:08d}" for n in (2, 3)]
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (files[0] / name).read_bytes() == (files[1] / name).read_bytes()


def test_a_non_finite_gradient_moves_nothing(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "train.steps=1")
    weight = next(trainer.engine.network.parameters())
    weight.register_hook(lambda gradient: gradient * math.inf)
    before = weights(trainer)
    trainer.train()
    (row,) = trainer.run.metrics()
    assert weights(trainer) == before
    assert math.isfinite(row["loss"])
    assert "grad_norm" not in row
    assert row["skipped"].startswith("the gradient is")


def test_a_run_that_skipped_too_many_updates_has_diverged(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "guard.limit=3")
    with torch.no_grad():
        next(trainer.engine.network.parameters()).fill_(math.nan)
    with pytest.raises(RunFailed, match="the loss is nan at step 4, after 3 skipped updates"):
        trainer.train()
    assert trainer.state.step == 3


def test_a_spike_is_skipped_only_where_the_recipe_watches_for_it(tmp_path: Path) -> None:
    quiet = faulty(tmp_path, 20, 10.0, "train.steps=30")
    watched = faulty(tmp_path, 20, 10.0, "train.steps=30", "guard.spike=6")
    for trainer in (quiet, watched):
        trainer.train()
    assert quiet.state.skipped == []
    ((first, end, reason),) = watched.state.skipped
    assert (first, end) == (240, 252)
    assert reason.startswith("the loss spikes to")
    assert len(watched.state.recent) == 29


def test_a_rollback_takes_the_last_checkpoint_and_skips_what_followed(tmp_path: Path) -> None:
    settings = (
        "train.steps=30",
        "guard.spike=6",
        "guard.action=rollback",
        "checkpoint.every=18",
        "evaluate.every=99",
    )
    trainer = faulty(tmp_path, 20, 10.0, *settings)
    trainer.train()
    state = trainer.state
    assert [span[:2] for span in state.skipped] == [[216, 252]]
    # Twelve updates are left after step 18, on the data behind the spike.
    assert (state.step, state.samples) == (30, 252 + 12 * 12)
    assert [row["step"] for row in trainer.run.metrics()] == list(range(1, 31))
    # The same comes out again, also when the run was killed before it could save.
    for folder in trainer.run.checkpoints.glob("step-00000030"):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    again = faulty(tmp_path, 20, 10.0, *settings)
    again.run = trainer.run
    again.__post_init__()
    again.train(resumed=True)
    assert weights(again) == weights(trainer)
    assert again.state.scalars() | {"seconds": 0} == state.scalars() | {"seconds": 0}


def test_a_pretraining_rolls_back_and_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = LanguageModel.loss
    read: list[Tensor] = []

    def poisoned(self: LanguageModel, network: nn.Module, batch: Batch) -> Tensor:
        if not network.training:
            return loss(self, network, batch)
        read.append(batch["tokens"])
        return loss(self, network, batch) * (10 if len(read) == 23 else 1)

    monkeypatch.setattr(LanguageModel, "loss", poisoned)
    corpus = soak.corpus(tmp_path)
    run = pretrain(
        None,
        [*SETTINGS, f"data.corpus={corpus}", "model.vocab_size=0", "train.steps=30",
         "system.compile=off", "system.threads=1", "checkpoint.every=9", "evaluate.every=30",
         "guard.spike=6", "guard.action=rollback", "name=run"],
        root=tmp_path,
    )  # fmt: skip
    result = run.read("result")
    ((first, end, reason),) = result["skipped_updates"]
    # From the checkpoint of step 18 to behind the 23rd update.
    assert (first, end) == (18 * SIZE, 23 * SIZE)
    assert reason.startswith("the loss spikes to")
    rows = run.metrics()
    assert [row["step"] for row in rows] == list(range(1, 31)) == [*range(1, result["step"] + 1)]
    assert not any("skipped" in row for row in rows)
    assert store.every(run)[-1].name == "step-00000030"
    # Twelve updates after the 23, of which five were taken back, and each on data of its own.
    assert len(read) == len({tokens.numpy().tobytes() for tokens in read}) == 23 + 12


def test_going_back_to_the_first_checkpoint_drops_the_moments(tmp_path: Path) -> None:
    trainer = faulty(tmp_path, 20, 10.0, "train.steps=24", "guard.spike=6", "guard.action=rollback",
                   "checkpoint.every=99", "evaluate.every=99")  # fmt: skip
    trainer.train()
    fresh = trainer_of(tmp_path, "train.steps=24", "evaluate.every=99")
    fresh.state.samples = 252
    fresh.train()
    losses = [[row["loss"] for row in t.run.metrics()] for t in (trainer, fresh)]
    assert losses[0] == losses[1]
