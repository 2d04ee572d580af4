"""Taking something out of a trained run: a new run, measured before and after."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wafergpt.checkpoint.imported_run import require_new, run_with
from wafergpt.config import Recipe
from wafergpt.pruning.calibration_network import Calibrated, Evaluated
from wafergpt.runs.run import Run

SEARCHED_SIZES = 16
"""Sizes between a run's own and the smallest one, of which a search finds one in five trainings."""


@dataclass(frozen=True)
class Removal(ABC):
    """Something to take out of a trained network; its fields are what was asked for."""

    @abstractmethod
    def require(self, name: str, recipe: Recipe) -> None:
        """Check it against the recipe of the run ``name``.

        Raises:
            InputError: if it is impossible.
        """

    @abstractmethod
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

    @abstractmethod
    def sizes(self, recipe: Recipe, name: str) -> list[tuple[str, Removal]]:
        """Return the removals that a search for the smallest run looks among.

        Args:
            recipe: of the run that something is taken out of.
            name: of the new run, which theirs begin with.

        Returns:
            Names of runs and what is taken out for them, all that is asked for first.

        Raises:
            InputError: if there is only one size.
        """

    def adds_to(self, zeros: float) -> bool:
        """Return whether it takes something out of blocks with this share of zeros."""
        return True


def searched_shares() -> list[float]:
    """Return the shares of what is asked for that a search looks among, the most first."""
    return [step / SEARCHED_SIZES for step in range(SEARCHED_SIZES, 0, -1)]


def take_out(run: Run, recipe: Recipe, name: str, removals: Sequence[Removal], root: Path) -> Run:
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


def how(removals: Sequence[Removal]) -> list[dict[str, Any]]:
    """Return what a result says of what was asked for."""
    return [asdict(each) for each in removals]
