"""Whether a training compiles, without a compiler."""

from __future__ import annotations

from typing import Literal

import pytest

from wafergpt.config import System
from wafergpt.engines import compilation
from wafergpt.engines.base import ROUNDS


def chosen(
    wanted: Literal["auto", "on", "off"],
    precision: Literal["fp32", "bf16"],
    eager: float,
    compiled: float,
) -> tuple[tuple[bool, float], list[int], list[bool]]:
    """Return what is chosen for an hour of updates, what was timed, and what was switched."""
    tried: list[int] = []
    switched: list[bool] = []

    def attempt(rounds: int) -> tuple[float, str | None]:
        tried.append(rounds)
        return compiled, None

    system = System(compile=wanted, precision=precision, device="cpu")
    found = compilation.chosen(system, 3600 / (eager or 1.0), eager, attempt, switched.append)
    return found, tried, switched


@pytest.fixture(autouse=True)
def _compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "compiler_available", lambda device: True)


def test_what_is_faster_is_taken() -> None:
    assert chosen("auto", "bf16", 1.0, 0.5) == ((True, 0.5), [ROUNDS], [])
    assert chosen("auto", "bf16", 1.0, 1.5) == ((False, 1.0), [ROUNDS], [False])
    assert chosen("off", "bf16", 1.0, 0.5) == ((False, 1.0), [], [])


def test_a_gain_that_may_be_noise_is_none() -> None:
    assert chosen("auto", "bf16", 1.0, 0.99) == ((False, 1.0), [ROUNDS], [False])


def test_nothing_is_tried_where_nothing_is_saved() -> None:
    assert chosen("auto", "fp32", 1.0, 0.5) == ((False, 1.0), [], [])


def test_what_is_wanted_is_timed_only_if_the_horizon_needs_it() -> None:
    assert chosen("on", "fp32", 0.0, 0.5) == ((True, 0.0), [0], [])
    assert chosen("on", "fp32", 1.0, 0.5) == ((True, 0.5), [ROUNDS], [])
