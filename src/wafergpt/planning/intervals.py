"""How many updates a training makes, and how often it evaluates and saves: for plans and runs."""

from __future__ import annotations

import math

from wafergpt.config import Recipe

DEFAULT_EPOCHS = 3.0
"""Passes over a task's rows where the recipe has no horizon."""

DEFAULT_EVALUATIONS = 10
"""Evaluations and checkpoints of a run that names no interval."""

MAX_BATCHES, MIN_SAMPLES = 50, 64
"""Most validation batches and fewest samples of an evaluation, where the recipe names no number."""


def horizon(recipe: Recipe, samples_per_epoch: int, update_seconds: float = 0.0) -> int:
    """Return the updates of a training.

    Args:
        recipe: with one of ``train.steps``, ``tokens`` and ``epochs``, with ``seconds``, or with
            both: then what ends first.
        samples_per_epoch: of the training data.
        update_seconds: of one update, where the recipe counts in seconds.
    """
    counted, seconds = counted_horizon(recipe, samples_per_epoch), recipe.train.seconds
    if not seconds:
        return counted or 1
    timed = recipe.train.steps_for(seconds / update_seconds * recipe.train.batch_size)
    return min(counted or timed, timed)


def counted_horizon(recipe: Recipe, samples_per_epoch: int) -> int | None:
    """Return the updates of a training whatever its time; None if only seconds limit it.

    Args:
        recipe: as for ``horizon``.
        samples_per_epoch: of the training data.
    """
    train = recipe.train
    if train.steps:
        return train.steps
    if train.tokens:
        return train.steps_for(train.tokens / recipe.model.seq_len)
    return train.steps_for(train.epochs * samples_per_epoch) if train.epochs else None


def with_intervals(recipe: Recipe, steps: int) -> Recipe:
    """Return the recipe with its horizon in steps and every interval set."""
    every = recipe.evaluate.every or math.ceil(steps / DEFAULT_EVALUATIONS)
    # A forward pass is a third of an update: an evaluation costs a fifteenth of what is before it.
    fewest = math.ceil(MIN_SAMPLES / recipe.train.batch_size)
    batches = recipe.evaluate.batches or max(fewest, min(MAX_BATCHES, every // 5))
    return recipe.replace(
        train={"steps": steps, "tokens": None, "epochs": None, "seconds": None},
        checkpoint={"every": recipe.checkpoint.every or math.ceil(steps / DEFAULT_EVALUATIONS)},
        evaluate={"every": every, "batches": batches},
    )
