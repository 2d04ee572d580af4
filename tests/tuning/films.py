"""A small tuning of a classifier of films, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from wafergpt import api
from wafergpt.runs.run import Run
from wafergpt.train import run as run_module
from wafergpt.train.callbacks import Callback
from wafergpt.train.run import train

SMALL = [
    "model.n_layers=1", "model.d_model=16", "model.n_heads=2", "model.seq_len=32",
    "model.vocab_size=300", "system.device=cpu", "system.compile=off", "system.threads=1",
]  # fmt: skip
TASK = [*SMALL, "train.steps=8", "train.batch_size=8", "evaluate.every=2", "name=film"]

LR = "optimizer.lr=1e-4..1e-1:log"


def tune(rows: Path, *changes: str, **options: Any) -> Run:
    files = [f"task.{name}={rows / name}.jsonl" for name in ("train", "test")]
    options = {"trials": 3, "pruner": "none", **options}
    return api.tune("scratch", None, [*TASK, *files, *changes], root=rows / "runs", **options)


def failing(monkeypatch: pytest.MonkeyPatch, errors: Sequence[Exception | None]) -> None:
    """Let the first trainings fail, as far as they have an error."""
    left = list(errors)

    def sometimes(*arguments: Any, callbacks: Sequence[Callback] = (), **named: Any) -> Run:
        error = left.pop(0) if left else None
        if error is not None:
            raise error
        return train(*arguments, callbacks=callbacks, **named)

    monkeypatch.setattr(run_module, "train", sometimes)
