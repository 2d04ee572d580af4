"""Evaluating a run as its training did, or on other rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wafergpt.checkpoint import store
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.engines.outputs import evaluate
from wafergpt.errors import InputError
from wafergpt.inference.devices import on_device
from wafergpt.progress import progress, silent
from wafergpt.runs.run import Run
from wafergpt.tasks.base import EvaluationSet, Outputs, task_of
from wafergpt.tasks.labelled_task import LabelledTask


def validation_loss(run: Run) -> float:
    """Evaluate a language model on its corpus.

    Args:
        run: whose weights are evaluated.

    Returns:
        The validation loss, in nats a token.

    Raises:
        InputError: if its corpus does not exist any more.
    """
    recipe = run.recipe
    task = task_of(recipe)
    recipe, splits = task.prepare(task.tokenizer(None))
    task = task_of(recipe)
    device = torch.device(recipe.system.host)
    network = store.restored(task.network, store.weights(run)).to(device)
    outputs = evaluate(task, network, splits.held_out, on_device(recipe, device.type), device)
    return float(task.compute_metrics(outputs, splits.held_out.references)["loss"])


@dataclass(frozen=True)
class Judged:
    """A run's answers to labelled rows.

    Attributes:
        task: of the run.
        outputs: for the rows.
        evaluated: the rows, with their answers.
        metrics: of the task.
    """

    task: LabelledTask[Any]
    outputs: Outputs
    evaluated: EvaluationSet
    metrics: dict[str, Any]


def judged(run: Run, rows: Path) -> Judged:
    """Evaluate a task's run on a file of labelled rows, as test rows.

    Args:
        run: whose best weights are evaluated.
        rows: the file.

    Returns:
        What it answers, and the metrics.

    Raises:
        InputError: if the run has no labelled rows, or these are unusable.
    """
    recipe = run.recipe
    if recipe.task is None or not isinstance(task_of(recipe), LabelledTask):
        raise InputError(f"{run.path} does not learn from labelled rows")
    device = torch.device(recipe.system.host)
    task = task_of(on_device(recipe.replace(task={"test": rows}), device.type))
    assert isinstance(task, LabelledTask)
    with silent():
        table = task.tables.test
    evaluated = task.evaluated(table, Tokenizer.load(run.tokenizer), "test")
    network = store.restored(task.network, store.weights(run)).to(device)
    with progress("evaluating", evaluated.batches.samples_per_epoch, "texts") as bar:
        outputs = evaluate(task, network, evaluated, task.recipe, device, bar.advance)
    return Judged(task, outputs, evaluated, task.compute_metrics(outputs, evaluated.references))
