"""Whether a run is long enough for the schedule of its learning rate."""

from __future__ import annotations

import math

from wafergpt.config import Recipe, Schedule
from wafergpt.config.warmup import warmup_share, warmup_steps
from wafergpt.errors import InputError


def updates(recipe: Recipe, steps: int) -> tuple[float, int]:
    """Return the length of a run of ``steps``, and of its warm-up, in updates of ``batch_size``."""
    train = recipe.train
    whole = train.samples(steps) / train.batch_size
    batch_tokens = train.batch_size * recipe.model.seq_len
    return whole, warmup_steps(recipe.schedule.warmup, round(whole), batch_tokens)


def require_possible_warmup(schedule: Schedule) -> None:
    """Refuse a warm-up of more than the whole run.

    Raises:
        InputError: if its share is above 100%.
    """
    share = warmup_share(schedule.warmup)
    if share is not None and share > 1:
        raise InputError(
            f"schedule.warmup={schedule.warmup} is more than the whole run: "
            "a share is at most 100%, and 1% to 10% are usual"
        )


def schedule_warning(recipe: Recipe, steps: int) -> str:
    """Return which part of its schedule a run of ``steps`` is too short for; "" if none."""
    schedule = recipe.schedule
    whole, warmup = updates(recipe, steps)
    length = round(whole)
    decay = math.ceil(schedule.decay * whole) if schedule.name == "wsd" else 0
    given = f" (schedule.warmup={schedule.warmup})" if isinstance(schedule.warmup, str) else ""
    run = f"{length:,}"
    if recipe.train.first_steps:
        run += f" of {recipe.train.batch_size:,} sequences"
    if warmup and warmup >= whole:
        return (
            f"the warm-up takes {warmup:,} updates{given} and the run has {run}: the learning rate "
            f"ends at {100 * whole / (warmup + 1):.2g}% of its peak; schedule.warmup=5% suits a "
            "run of any length"
        )
    if decay and warmup + decay > length:
        return (
            f"the warm-up of {warmup:,} updates{given} and the decay of the last {decay:,} "
            f"(schedule.decay={schedule.decay:g}) overlap in a run of {run}: the decay takes "
            f"{length - warmup:,}"
        )
    return ""
