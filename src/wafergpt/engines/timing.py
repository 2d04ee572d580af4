"""How long an update takes on average, from a few that are timed."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from wafergpt.engines.base import ROUNDS

if TYPE_CHECKING:
    from wafergpt.data.batches import Batches

LENGTHS = 256
"""Batches whose lengths say how long an update is beside those that are timed."""


def mean_update_seconds(
    data: Batches,
    size: int,
    update: Callable[[int], None],
    stop: Callable[[], bool],
    max_seconds: float,
    rounds: int = ROUNDS,
) -> float:
    """Time updates that are spread over the data.

    Args:
        data: to train on.
        size: samples of an update.
        update: makes the one from a first sample on.
        stop: called after each update; if true, no more are timed.
        max_seconds: that this should take.
        rounds: maximum updates, beside a first one.

    Returns:
        Seconds of an update, as if they were proportional to what its samples are padded to.
    """
    # From a batch's first sample on: the lengths are similar inside of one, not beside others.
    batches = max(1, data.samples_per_epoch // size)
    starts = dict.fromkeys(place * batches // LENGTHS * size for place in range(LENGTHS))
    lengths = {first: data.length(first, size) for first in starts}
    every = list(lengths)
    grid = [every[place * len(every) // (ROUNDS + 1)] for place in range(ROUNDS + 1)]
    # The largest of these batches shows the memory that is needed.
    largest = max(grid, key=lengths.__getitem__)
    places = [largest, *grid[1 :: math.ceil(ROUNDS / max(1, rounds))][:rounds]]
    times: list[float] = []
    for first in places:
        if times and (stop() or sum(times[1:]) >= max_seconds):
            break
        start = time.perf_counter()
        update(first)
        times.append(time.perf_counter() - start)
    # The first updates include allocations, and kernels for each new length.
    kept = max(1, len(times) // 2)
    timed = statistics.fmean(lengths[first] for first in places[len(times) - kept : len(times)])
    return statistics.fmean(times[-kept:]) * statistics.fmean(lengths.values()) / timed
