"""Runs that are too short for their schedule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.config import load_recipe, shipped_recipes
from wafergpt.engines.schedules import lr_factor
from wafergpt.errors import InputError
from wafergpt.planning.schedule_check import require_possible_warmup, schedule_warning, updates


def warning(steps: int, *overrides: str, name: str | None = None) -> str:
    return schedule_warning(load_recipe(name, overrides), steps)


@given(
    name=st.sampled_from(["linear", "cosine", "constant", "wsd"]),
    steps=st.integers(1, 60),
    warmup=st.integers(0, 60),
)
def test_a_learning_rate_that_never_reaches_its_peak_is_warned_of(
    name: str, steps: int, warmup: int
) -> None:
    recipe = load_recipe(None, [f"schedule.name={name}", f"schedule.warmup={warmup}"])
    whole, length = updates(recipe, steps)
    highest = max(lr_factor(recipe.schedule, step, whole, length) for step in range(steps))
    warning = schedule_warning(recipe, steps)
    if name != "wsd":
        assert bool(warning) == (highest < 1)
    elif warning:
        assert highest < 1
    if warmup >= max(steps, 1) and warmup:
        assert f"{warmup} updates" in warning
        assert f"the run has {steps}:" in warning


def test_both_numbers_and_what_became_of_the_peak() -> None:
    assert warning(50, "schedule.warmup=500").startswith(
        "the warm-up takes 500 updates and the run has 50: the learning rate ends at 10% of its"
    )
    tokens = warning(100, name="cerebras-gpt/111m")
    assert "1,525 updates and the run has 100: the learning rate ends at 6.6%" in tokens
    assert "170 updates (schedule.warmup=375M tokens) and the run has 67 of 1,080 sequences" in (
        warning(100, name="cerebras-gpt/13b")
    )


def test_a_warm_up_and_a_decay_that_overlap() -> None:
    wsd = ["schedule.name=wsd", "schedule.decay=0.4"]
    assert "overlap in a run of 50: the decay takes 15" in warning(50, *wsd, "schedule.warmup=35")
    assert warning(50, *wsd, "schedule.warmup=30") == ""
    assert "of the last 20 (schedule.decay=0.4)" in warning(50, *wsd, "schedule.warmup=80%")


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_have_room_for_their_schedule(name: str) -> None:
    recipe = load_recipe(name)
    assert schedule_warning(recipe, recipe.train.steps or 1000) == ""
    require_possible_warmup(recipe.schedule)


@pytest.mark.parametrize("share", ["150%", "100.5%", "999 %"])
def test_more_than_the_whole_run_is_refused(share: str) -> None:
    with pytest.raises(InputError, match="more than the whole run"):
        require_possible_warmup(load_recipe(None, [f"schedule.warmup={share}"]).schedule)


def test_a_warm_up_of_the_whole_run_is_possible_and_warned_of() -> None:
    require_possible_warmup(load_recipe(None, ["schedule.warmup=100%"]).schedule)
    assert "ends at 95%" in warning(20, "schedule.warmup=100%")


def test_a_share_written_as_a_fraction_is_refused_with_how_to_write_it() -> None:
    with pytest.raises(InputError, match="write 5% for a share"):
        load_recipe(None, ["schedule.warmup=0.05"])
    assert load_recipe(None, ["schedule.warmup=20.0"]).schedule.warmup == 20
