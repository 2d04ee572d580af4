"""How many tokens and evaluations a training has, counted before it runs."""

from __future__ import annotations

import math

from wafergpt.config import Recipe
from wafergpt.data.batches import parts
from wafergpt.distributed.collectives import ProcessGroup
from wafergpt.tasks.base import EvaluationSet, Task
from wafergpt.train.setup import Setup

COUNTED = 4096
"""Updates whose tokens are counted; of more, as many spread over the training."""


def total_tokens(setup: Setup, group: ProcessGroup) -> int:
    """Return the tokens of a whole training, padding included."""
    steps = setup.recipe.train.steps or 0
    counted = range(0, steps, math.ceil(steps / COUNTED))
    tokens = sum(update_tokens(setup, group, step) for step in counted)
    return round(tokens * steps / len(counted))


def update_tokens(setup: Setup, group: ProcessGroup, step: int) -> int:
    """Return the tokens of one update, padding included."""
    train, batches = setup.recipe.train, setup.splits.train
    first, size = train.samples(step), train.batch_at(step)
    shares = (ProcessGroup(rank, group.size).share(first, size) for rank in range(group.size))
    return sum(
        n * batches.length(place, n)
        for share in shares
        for place, n in parts(*share, train.micro_batch_size or size)
    )


def evaluated_tokens(task: Task, part: EvaluationSet | None) -> int:
    """Return the tokens of one evaluation, padding included; 0 where nothing is held out."""
    if part is None:
        return 0
    passes = parts(0, task.evaluation_samples(part.batches), max(1, task.evaluation_rows()))
    return sum(n * part.batches.length(first, n) for first, n in passes)


def evaluations(recipe: Recipe) -> int:
    """Return the number of evaluations of a settled recipe."""
    return math.ceil((recipe.train.steps or 0) / recipe.evaluate.every)


def saves(recipe: Recipe) -> int:
    """Return the number of checkpoints after the first; each evaluation may be the best so far."""
    steps = recipe.train.steps or 0
    every = (recipe.checkpoint.every, recipe.evaluate.every)
    return len({steps}.union(*(range(n, steps, n) for n in every)))
