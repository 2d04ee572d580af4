"""The learning rate over a run, as a fraction of its peak."""

from __future__ import annotations

import math

from wafergpt.config import Recipe, Schedule
from wafergpt.planning.schedule_check import updates


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Return the learning rate of update ``step`` (from 0) of ``steps``.

    The schedule counts in steps of the final batch, so that it moves with the tokens read also
    where the first batches are smaller.
    """
    whole, warmup = updates(recipe, steps)
    place = recipe.train.samples(step) / recipe.train.batch_size
    return recipe.optimizer.lr * lr_factor(recipe.schedule, place, whole, warmup)


def lr_factor(schedule: Schedule, step: float, steps: float, warmup: int) -> float:
    """Return the factor of the peak learning rate that update ``step`` (from 0) of ``steps`` uses.

    It rises linearly over ``warmup`` updates, the first of which is not zero, then falls to
    ``schedule.final`` at the last update:

    - linear, cosine: all the way from the end of the warm-up;
    - wsd (warm-up, stable, decay; arXiv:2404.06395): linearly over the last ``schedule.decay``
      share of all updates;
    - constant: not at all.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule.name == "constant":
        return 1.0
    start: float = warmup
    if schedule.name == "wsd":
        # The last step before the decay.
        start = max(warmup, steps - math.ceil(schedule.decay * steps)) - 1
    progress = min(max(step - start, 0) / max(steps - 1 - start, 1), 1.0)
    fall = (1 - math.cos(math.pi * progress)) / 2 if schedule.name == "cosine" else progress
    return 1.0 - (1.0 - schedule.final) * fall
