"""Evaluating a run as its training did."""

from __future__ import annotations

import torch

from wafergpt.checkpoint import store
from wafergpt.checkpoint.restored import restored
from wafergpt.engines.outputs import evaluate
from wafergpt.inference.devices import on_device
from wafergpt.runs.run import Run
from wafergpt.tasks.base import task_of


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
    network = restored(task.network, store.weights(run)).to(device)
    outputs = evaluate(task, network, splits.held_out, on_device(recipe, device.type), device)
    return float(task.compute_metrics(outputs, splits.held_out.references)["loss"])
