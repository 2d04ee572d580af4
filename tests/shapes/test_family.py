"""The shipped recipes of Cerebras-GPT against what was published (arXiv:2304.03208, table 1)."""

from __future__ import annotations

import pytest
import torch

from wafergpt.config import load_recipe, shipped_recipes
from wafergpt.config.warmup import warmup_steps
from wafergpt.engines.schedules import lr_factor
from wafergpt.model.gpt import GPT

# Parameters, tokens, batch, steps, peak learning rate, warm-up, decay, epsilon of Adam.
PUBLISHED = {
    "111m": (111_050_496, 2.22e9, 120, 9037, 6e-4, 1525, "linear", 1e-8),
    "256m": (255_977_024, 5.12e9, 264, 9468, 6e-4, 693, "linear", 1e-8),
    "590m": (590_310_912, 1.18e10, 264, 21836, 2e-4, 693, "linear", 1e-8),
    "1.3b": (1_315_723_264, 2.63e10, 528, 24334, 2e-4, 346, "cosine", 1e-8),
    "2.7b": (2_651_553_280, 5.30e10, 528, 49041, 2e-4, 346, "cosine", 1e-8),
    "6.7b": (6_658_404_352, 1.33e11, 1040, 62522, 1.2e-4, 176, "linear", 1e-9),
    "13b": (12_853_386_240, 2.57e11, 1080, 135_223, 1.2e-4, "375M tokens", "cosine", 1e-9),
}


def test_all_of_the_family_is_shipped() -> None:
    names = {name for name in shipped_recipes() if name.startswith("cerebras-gpt/")}
    mup = {f"cerebras-gpt/{size}-mup" for size in ("111m", "256m", "590m", "1.3b", "2.7b")}
    assert names == {f"cerebras-gpt/{size}" for size in PUBLISHED} | mup


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_published_settings(size: str) -> None:
    parameters, tokens, batch, steps, lr, warmup, decay, eps = PUBLISHED[size]
    recipe = load_recipe(f"cerebras-gpt/{size}")
    with torch.device("meta"):
        gpt = GPT(recipe.model)
    assert sum(p.numel() for p in gpt.parameters()) == parameters
    assert recipe.model.d_ffn == 4 * recipe.model.d_model
    assert recipe.model.activation == "gelu"
    assert (recipe.train.batch_size, recipe.train.steps) == (batch, steps)
    assert float(f"{recipe.train.samples(steps) * 2048:.2e}") == tokens
    optimizer, schedule = recipe.optimizer, recipe.schedule
    assert (optimizer.lr, optimizer.eps) == (lr, eps)
    assert (optimizer.beta1, optimizer.beta2) == (0.9, 0.95)
    assert (optimizer.weight_decay, optimizer.clip) == (0.1, 1.0)
    assert (schedule.name, schedule.warmup, schedule.final) == (decay, warmup, 0.1)
    assert recipe.model.dropout == 0


@pytest.mark.parametrize("size", ["111m", "256m", "590m", "1.3b", "2.7b"])
def test_mup_changes_what_was_published_and_nothing_else(size: str) -> None:
    plain, mup = (load_recipe(f"cerebras-gpt/{size}{end}") for end in ("", "-mup"))
    assert mup.optimizer.lr == 6e-3
    assert mup.model.parametrization == "mup"
    assert (mup.model.base_d_model, mup.model.base_d_ffn) == (256, 1024)
    assert (mup.model.init_std, mup.model.embedding_scale, mup.model.output_scale) == (0.08, 10, 1)
    kept = {"parametrization", "init_std", "embedding_scale", "output_scale"}
    assert mup.model.model_dump(exclude=kept) == plain.model.model_dump(exclude=kept)
    assert mup.train == plain.train
    assert mup.schedule == plain.schedule
    assert mup.optimizer.model_dump(exclude={"lr"}) == plain.optimizer.model_dump(exclude={"lr"})


def test_13b_changes_its_batch_as_published() -> None:
    train = load_recipe("cerebras-gpt/13b").train
    assert (train.batch_at(0), train.batch_at(56_999), train.batch_at(57_000)) == (720, 720, 1080)
    assert train.steps is not None
    assert train.samples(57_000) == 57_000 * 720
    # The counter was reset to 38,000 of 116,223 steps at 1,080.
    assert train.samples(train.steps) == 116_223 * 1080
    assert train.steps_for(116_223 * 1080) == train.steps
    assert train.common_batch == 360


def test_the_schedule_of_13b_follows_the_sequences() -> None:
    recipe = load_recipe("cerebras-gpt/13b")
    whole = 116_223.0
    warmup = warmup_steps(recipe.schedule.warmup, round(whole), 1080 * 2048)
    before = lr_factor(recipe.schedule, 56_999 * 720 / 1080, whole, warmup)
    after = lr_factor(recipe.schedule, 57_000 * 720 / 1080, whole, warmup)
    assert 0 < before - after < 1e-4
    assert lr_factor(recipe.schedule, whole - 1, whole, warmup) == pytest.approx(0.1)
