"""The seconds of an update, from a few of them."""

from __future__ import annotations

import numpy as np
import pytest

from wafergpt.data.labelled_batches import LabelledBatches
from wafergpt.engines.base import ROUNDS
from wafergpt.engines.timing import LENGTHS, mean_update_seconds

SIZE = 8


def batches(lengths: list[int]) -> LabelledBatches:
    texts = [np.zeros(length, dtype=np.int64) for length in lengths]
    return LabelledBatches(texts, np.zeros(len(texts), dtype=np.int64), SIZE, seed=0)


class Clock:
    """Tells a time that an update moves on by what its samples are padded to."""

    def __init__(self, data: LabelledBatches) -> None:
        self.data, self.now, self.updates = data, 0.0, 0

    def update(self, first: int) -> None:
        self.now += self.data.length(first, SIZE) / 1000
        self.updates += 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rows", [5, 40, 3000])
def test_it_is_that_of_all_batches_whatever_was_timed(
    monkeypatch: pytest.MonkeyPatch, rows: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    # Long texts, and their excerpts.
    data = batches(
        [int(draw.integers(300, 512)) if draw.random() < 0.5 else 20 for _ in range(rows)]
    )
    clock = Clock(data)
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    found = mean_update_seconds(data, SIZE, clock.update, lambda: False, 1e9)
    assert clock.updates == 1 + ROUNDS
    whole = max(1, rows // SIZE)
    real = np.mean([data.length(place * SIZE, SIZE) for place in range(whole)]) / 1000
    assert found == pytest.approx(real, rel=1e-9 if whole <= LENGTHS else 0.1)


def test_it_ends_when_told_and_after_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    data = batches([100] * 400)
    clock = Clock(data)
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    assert mean_update_seconds(data, SIZE, clock.update, lambda: True, 1e9) == pytest.approx(0.1)
    assert clock.updates == 1
    assert mean_update_seconds(data, SIZE, clock.update, lambda: False, 0.35) == pytest.approx(0.1)
    assert clock.updates == 1 + 5
    mean_update_seconds(data, SIZE, clock.update, lambda: False, 1e9, rounds=3)
    assert clock.updates == 6 + 4
