from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wafergpt.config import Schedule
from wafergpt.config.warmup import warmup_steps
from wafergpt.engines.schedules import lr_factor

NAMES = ["linear", "cosine", "constant", "wsd"]


@given(
    name=st.sampled_from(NAMES),
    steps=st.integers(1, 300),
    warmup=st.integers(0, 300),
    final=st.floats(0, 1),
    decay=st.floats(0.01, 1),
)
def test_every_schedule_rises_then_falls_within_bounds(
    name: str, steps: int, warmup: int, final: float, decay: float
) -> None:
    schedule = Schedule(name=name, warmup=warmup, final=final, decay=decay)
    factors = [lr_factor(schedule, step, steps, warmup) for step in range(steps)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert warmup == 0 or factors[0] > 0
    rise, fall = factors[:warmup], factors[warmup:]
    assert rise == sorted(rise)
    assert fall == sorted(fall, reverse=True)
    if len(fall) > 1 and name != "constant":
        assert fall[0] == 1 or name == "wsd"
        assert fall[-1] == pytest.approx(final)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_equals_torch(name: str) -> None:
    peak, steps, final = 3.0, 50, 0.1
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], peak)
    theirs = (
        torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, final, steps - 1)
        if name == "linear"
        else torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - 1, peak * final)
    )
    schedule = Schedule(name=name, final=final)
    for step in range(steps):
        ours = peak * lr_factor(schedule, step, steps, 0)
        assert math.isclose(ours, optimizer.param_groups[0]["lr"], rel_tol=1e-6)
        optimizer.step()
        theirs.step()


def test_wsd_holds_then_decays() -> None:
    schedule = Schedule(name="wsd", final=0.0, decay=0.2)
    factors = [lr_factor(schedule, step, 100, 10) for step in range(100)]
    assert set(factors[10:80]) == {1.0}
    assert factors[80] < 1
    assert factors[-1] == 0


def test_warmup_in_tokens() -> None:
    # Cerebras-GPT 111M: 375M tokens at 120 sequences of 2048 are 1525 steps (to rounding: 1526).
    assert warmup_steps("375M tokens", 9037, 120 * 2048) in (1525, 1526)
    assert warmup_steps("5%", 300, 1) == 15
    with pytest.raises(ValueError, match="number of tokens"):
        Schedule(warmup="soon")
