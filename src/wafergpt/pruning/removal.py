"""Taking something out of a trained run: a new run, measured before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from wafergpt.checkpoint.imported_run import require_new, run_with
from wafergpt.config import Recipe
from wafergpt.pruning.calibration_network import Calibrated, Evaluated
from wafergpt.pruning.structured import Narrowing
from wafergpt.pruning.tables import Trimming
from wafergpt.pruning.unstructured import Pruning
from wafergpt.runs.run import Run


class Removal(Protocol):
    """Something to take out: ``Trimming``, ``Pruning`` or ``Narrowing``."""

    def require(self, name: str, recipe: Recipe) -> None:
        """Check it against the recipe of the run ``name``.

        Raises:
            InputError: if it is impossible.
        """

    def take_out(self, network: Calibrated, name: str, before: Evaluated) -> dict[str, Any]:
        """Change a network.

        Args:
            network: with its data; its recipe is changed as it is.
            name: of the run that it is of.
            before: its evaluation before anything was taken out.

        Returns:
            What the result says of it.

        Raises:
            InputError: if it is impossible for these weights or this data.
        """


def take_out(
    run: Run, recipe: Recipe, name: str, removals: Sequence[Trimming | Pruning | Narrowing],
    root: Path,
) -> Run:  # fmt: skip
    """Make a run from another one's weights by taking something out of it.

    Args:
        run: a language model or a task's, with its data.
        recipe: the run's, with its data where that is now.
        name: of the new run.
        removals: what to take out, one after the other.
        root: the folder that holds runs.

    Returns:
        The new run; its result has loss, time and sizes before and after.

    Raises:
        InputError: if the name is taken, the data is gone, or a removal impossible.
        DamagedCheckpointError: if the checkpoint is not what was written.
    """
    require_new(recipe.replace(name=name).name, root)
    for each in removals:
        each.require(run.name, recipe)
    network = Calibrated.of(run, recipe)
    evaluated = network.first(run.name)
    facts: dict[str, Any] = network.facts("before", evaluated)
    for each in removals:
        facts |= each.take_out(network, run.name, evaluated)
    after = network.evaluated()
    fitted = {"task": after.fitted} if after.fitted else {}
    return run_with(
        network.network.state_dict(),
        network.recipe.replace(name=name, sparsity={"algorithm": "none"}, **fitted),
        root,
        network.tokenizer,
        {
            "pruned": str(run.path.resolve()),
            "how": how(removals),
            **facts,
            **network.facts("after", after),
            "sparsity": network.zeros(),
            "parameters": sum(p.numel() for p in network.network.parameters()),
            "val_loss": after.loss,
            "metrics": after.metrics,
            "tokens": None,
            "loss": None,
        },
    )


def how(removals: Sequence[Trimming | Pruning | Narrowing]) -> list[dict[str, Any]]:
    """Return what a result says of what was asked for."""
    return [asdict(each) for each in removals]
