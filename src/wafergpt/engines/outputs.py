"""A task's outputs, without gradients: for evaluations and predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wafergpt.data.batches import Batch, parts
from wafergpt.engines.base import autocast
from wafergpt.tasks.base import EvaluationSet, Outputs, Task, joined

if TYPE_CHECKING:
    from wafergpt.config import Recipe


@torch.no_grad()
def outputs_of(
    task: Task, network: nn.Module, batch: Batch, recipe: Recipe, device: torch.device
) -> Mapping[str, Tensor]:
    """Return the task's outputs of one batch, on the CPU, in the recipe's precision."""
    network.eval()
    with autocast(recipe, device):
        found = task.outputs(network, batch.to(device))
    return {name: values.cpu() for name, values in found.items()}


def evaluate(
    task: Task,
    network: nn.Module,
    evaluated: EvaluationSet,
    recipe: Recipe,
    device: torch.device,
    advance: Callable[[int], None] = lambda n: None,
    samples: range | None = None,
) -> Outputs:
    """Compute the task's outputs of the samples that an evaluation reads.

    Args:
        task: of the network.
        network: on ``device``.
        evaluated: the samples.
        recipe: whose precision is used.
        device: where the network is.
        advance: called after each forward pass with its number of samples.
        samples: which; all if omitted.

    Returns:
        Arrays ``[samples, …]`` by name, in the order of the rows.
    """
    if samples is None:
        samples = range(task.evaluation_samples(evaluated.batches))
    found = []
    for first, n in parts(samples.start, len(samples), task.evaluation_rows()):
        outputs = outputs_of(task, network, evaluated.batches.batch(first, n), recipe, device)
        found.append({name: values.numpy() for name, values in outputs.items()})
        advance(n)
    rows = evaluated.rows
    return joined(found, None if rows is None else rows[samples.start : samples.stop])
