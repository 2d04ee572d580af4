"""What a training has to do: its tokens and evaluations, counted, and its evaluations, timed."""

from __future__ import annotations

import math
import time

import torch

from wafergpt.config import Recipe
from wafergpt.data.batches import parts
from wafergpt.distributed.collectives import ProcessGroup
from wafergpt.engines.outputs import evaluate
from wafergpt.tasks.base import EvaluationSet, Task
from wafergpt.train.setup import Setup

COUNTED_UPDATES = 4096
"""Updates whose tokens are counted; of more, as many spread over the training."""

MOST_PASSES = 64
"""Passes that are timed."""

WRITTEN_ROWS = 32
"""Test rows whose answers are written to time them."""


def total_tokens(setup: Setup, group: ProcessGroup) -> int:
    """Return the tokens of a whole training, padding included."""
    steps = setup.recipe.train.steps or 0
    counted = range(0, steps, math.ceil(steps / COUNTED_UPDATES))
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


def evaluation_seconds(
    setup: Setup, group: ProcessGroup, seconds: float, fewest: int
) -> tuple[float, float]:
    """Time passes spread over the validation samples, at least ``fewest``.

    Returns:
        Seconds of one token, and the seconds of the first pass beyond its share.
    """
    task, batches = setup.task, setup.splits.held_out.batches
    samples, rows = task.evaluation_samples(batches), task.evaluation_rows()
    at_once = max(1, min(samples, rows * group.size))
    times: list[float] = []
    tokens: list[int] = []
    start = time.monotonic()
    for share in spread(min(MOST_PASSES, max(fewest, -(-samples // at_once)))):
        first = int(share * (samples - at_once + 1))
        before = time.monotonic()
        setup.engine.outputs(range(first, first + at_once), rows, lambda: None)
        times.append(time.monotonic() - before)
        tokens.append(at_once * batches.length(first, at_once))
        if len(times) >= fewest and time.monotonic() - start > seconds:
            break
    # The first pass allocates, and may compile.
    token = sum(times[1:]) / sum(tokens[1:])
    return token, max(0.0, times[0] - token * tokens[0])


def final_seconds(setup: Setup, group: ProcessGroup, token: float) -> float:
    """Return the seconds that one process evaluates the best checkpoint for.

    Args:
        setup: of the training.
        group: its processes.
        token: seconds of a token in an evaluation by all of them.
    """
    task, splits, recipe = setup.task, setup.splits, setup.recipe
    if recipe.task is None:
        return 0.0
    seconds = token * group.size * evaluated_tokens(task, splits.validation)
    if splits.test is None:
        return seconds
    batches = splits.test.batches
    if setup.update_seconds and recipe.vocabulary_head and recipe.system.shards == 1:
        # Answers to all test rows are written, and to few validation rows.
        rows = min(WRITTEN_ROWS, batches.samples_per_epoch)
        first = (batches.samples_per_epoch - rows) // 2
        device, network = torch.device(recipe.system.host), setup.engine.network
        start = time.monotonic()
        evaluate(task, network, splits.test, recipe, device, samples=range(first, first + rows))
        token = (time.monotonic() - start) / (rows * batches.length(first, rows))
    else:
        token *= group.size
    return seconds + token * evaluated_tokens(task, splits.test)


def spread(n: int) -> list[float]:
    """Return ``n`` numbers below 1 of which any first ones are spread evenly (van der Corput)."""
    return [sum((index >> bit & 1) / (2 << bit) for bit in range(16)) for index in range(n)]
