"""A small language model, its engine and its trainer, on made-up tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wafergpt.config import load_recipe
from wafergpt.data.language_batches import LanguageBatches
from wafergpt.distributed.collectives import SINGLE
from wafergpt.engines.base import Decision, UpdateResult
from wafergpt.engines.torch import TorchEngine
from wafergpt.planning.hardware import Machine
from wafergpt.planning.intervals import with_intervals
from wafergpt.runs.run import Run
from wafergpt.tasks.base import EvaluationSet, Splits
from wafergpt.tasks.language_model import LanguageModel
from wafergpt.train.setup import Setup
from wafergpt.train.signals import Signals
from wafergpt.train.trainer import Trainer

SETTINGS = [
    "model.n_layers=1", "model.d_model=16", "model.n_heads=2", "model.seq_len=8",
    "model.vocab_size=31", "train.batch_size=12", "train.micro_batch_size=12", "train.steps=6",
    "system.precision=fp32", "system.device=cpu", "optimizer.lr=1e-2", "schedule.warmup=2",
    "optimizer.clip=0.5",
]  # fmt: skip
MACHINE = Machine("cpu", "made up", 1, 1 << 33, 1 << 32, "2", True, 1e9, 1e9, {}, 1e9, 1e9)


class Tokens:
    """Every seventh token of 31, over and over."""

    def __len__(self) -> int:
        return 2000

    def take(self, start: int, length: int) -> NDArray[np.integer]:
        return (np.arange(start, start + length) * 7 % 31).astype(np.int64)


def engine_of(
    *overrides: str, documents: bool = False, kind: type[LanguageModel] = LanguageModel
) -> TorchEngine:
    recipe = load_recipe(None, [*SETTINGS, *overrides])
    recipe = with_intervals(recipe, recipe.train.steps or 1)
    ends = 3 if documents else None
    train = LanguageBatches(Tokens(), 8, "f", 0, end_of_text=ends)
    validation = LanguageBatches(Tokens(), 8, "f", None, end_of_text=ends)
    references = {"tokens": 2000, "bytes": 4000}
    splits = Splits(train, EvaluationSet(validation, references), None, 2000)
    return TorchEngine(recipe, MACHINE, kind(recipe), splits, SINGLE, None)


def trainer_of(folder: Path, *overrides: str, kind: type[LanguageModel] = LanguageModel) -> Trainer:
    """Return the trainer of a run of its own below ``folder``."""
    engine = engine_of(*overrides, kind=kind)
    recipe = engine._recipe.replace(name=f"run{len(list(folder.glob('run*')))}")
    tokenizer: Any = None
    setup = Setup(recipe, engine._task, tokenizer, engine._splits, MACHINE, engine)
    return Trainer(setup, Run.create(recipe, folder), Signals())


def updates(engine: TorchEngine, until: int = 6) -> Iterator[UpdateResult]:
    """Yield the updates of an engine, each applied."""
    return engine.updates(0, 0, until, (), lambda _: Decision.APPLY, lambda: None)
