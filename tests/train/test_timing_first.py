"""Updates that are timed before a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import soak
from wafergpt.api import pretrain
from wafergpt.engines.base import ROUNDS
from wafergpt.engines.torch import TorchEngine


@pytest.mark.parametrize(("asked", "rounds"), [
    ("train.steps=5", 1), ("train.steps=80", 10), ("train.steps=1000", ROUNDS),
    ("train.seconds=1", ROUNDS),
])  # fmt: skip
def test_a_short_training_times_few_updates_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, rounds: int
) -> None:
    found: list[int] = []

    class Timed(Exception):
        pass

    def timed(self: TorchEngine, stop: Any, max_seconds: float = 6.0, rounds: int = ROUNDS) -> Any:
        found.append(rounds)
        raise Timed

    monkeypatch.setattr(TorchEngine, "seconds_per_update", timed)
    corpus = soak.corpus(tmp_path)
    shape = ["model.n_layers=1", "model.d_model=16", "model.n_heads=2", "model.seq_len=16"]
    with pytest.raises(Timed):
        pretrain(None, [f"data.corpus={corpus}", *shape, asked], root=tmp_path)
    assert found == [rounds]
