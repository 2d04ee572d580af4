"""How long the demo fine-tunes: what pretraining, and what comes beside it, has left."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from wafergpt.apps import demo
from wafergpt.config import load_recipe
from wafergpt.runs.run import Run


@pytest.mark.parametrize(
    ("elapsed", "updates", "seconds"),
    [
        # 20 s beside 100 s of updates: 40 s beside those of fine-tuning, and 60 s of the BiLSTM.
        (120.0, 100.0, (300 - 120 - 60 - 40) / 1.125),
        # A slow machine.
        (200.0, 100.0, demo.LEAST_SECONDS),
    ],
)
def test_finetuning_has_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elapsed: float, updates: float, seconds: float
) -> None:
    run = Run.create(load_recipe("demo"), tmp_path)
    run.write("result", {"seconds": updates})
    monkeypatch.setattr(demo, "time", SimpleNamespace(perf_counter=lambda: 7.0 + elapsed))
    assert demo._left_for_finetuning(7.0, run) == pytest.approx(seconds)
