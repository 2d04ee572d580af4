"""What ``wafergpt prune`` is asked for: smaller tables, zeros or fewer parts, and a retraining."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wafergpt.config import Lora, Recipe, recipe_with
from wafergpt.errors import InputError
from wafergpt.logs import say
from wafergpt.pruning.removal import Removal, take_out
from wafergpt.pruning.retraining import TRAINING_SETTINGS, Retraining, prune_and_retrain
from wafergpt.pruning.structured import Narrowing
from wafergpt.pruning.tables import Trimming
from wafergpt.pruning.unstructured import Pruning
from wafergpt.runs.moved import require_sources
from wafergpt.runs.run import Run

CHANGEABLE_SETTINGS = ("data.", "task.", "system.", "evaluate.")
"""Settings of the run that may change."""


@dataclass(frozen=True)
class Wanted:
    """What is to be taken out of a run: of its tables, and of its blocks zeros or parts.

    Attributes:
        zeros: weights that are set to zero; None for none, unless nothing else is asked for.
        parts: the shape of a smaller network.
        tables: what stays of tables.
        max_loss_increase: as a share; of zeros, or after the retraining.
        retrain: tokens of a language model, passes over the rows of a task; None for none.
        distill: retrain with the run as the teacher.
    """

    zeros: Pruning | None
    parts: Narrowing
    tables: Trimming
    max_loss_increase: float | None
    retrain: float | str | None
    distill: bool

    def __post_init__(self) -> None:
        limited = self.retrain is None and self.max_loss_increase is not None
        if self.parts.asked and (self.zeros is not None or limited):
            raise InputError(
                "--layers, --heads, --channels and --width take parts out, and the other options "
                "set weights to zero: one after the other, from run to run; --max-loss-increase "
                "finds a shape with --retrain"
            )
        if self.distill and self.retrain is None:
            raise InputError("--distill is for a retraining: add --retrain")
        if self.distill and self.tables.vocabulary:
            raise InputError(
                "--distill needs a teacher that reads the same tokens, and --vocabulary takes some "
                "out: leave one of them out"
            )
        if self.tables.asked and self.zeros is not None and self.zeros.curves:
            raise InputError("--curves are of zeros alone: not with --rows or --vocabulary")

    @property
    def removals(self) -> list[Removal]:
        """What to take out, in this order: tables, then parts or zeros."""
        found: list[Removal] = [self.tables] if self.tables.asked else []
        limit = None if self.retrain is not None else self.max_loss_increase
        if self.parts.asked:
            found.append(self.parts)
        elif not found or self.zeros is not None or self.max_loss_increase is not None:
            zeros = self.zeros or Pruning(samples=self.parts.samples)
            found.append(replace(zeros, max_loss_increase=limit))
        return found


def prune_run(run: Run, name: str, overrides: Sequence[str], wanted: Wanted, root: Path) -> Run:
    """Make a run from another one by taking out what is wanted, and train it on if asked.

    Args:
        run: a language model or a task's, with its data.
        name: of the new run.
        overrides: ``section.key=value`` strings, for data that has moved, and for the retraining.
        wanted: what to take out.
        root: the folder that holds runs.

    Returns:
        The new run.

    Raises:
        InputError: if the name is taken, the data is gone, no sparsity keeps to the limit, or the
            shape is impossible.
        RunFailed: if no retrained run keeps to the limit, or one diverges.
        Interrupted: after saving, if a signal requested a stop of the retraining.
    """
    recipe = _with_data(run, overrides, wanted)
    if run.read("result") is None:
        say(f"{run.path} is not finished: what it has learned so far is pruned")
    if wanted.retrain is None:
        return take_out(run, recipe, name, wanted.removals, root)
    amount = Retraining.amount_of(wanted.retrain, recipe)
    again = tuple(o for o in overrides if not o.startswith(("data.", "task.")))
    after = Retraining(amount, wanted.distill, wanted.max_loss_increase, again)
    return prune_and_retrain(run, recipe, name, wanted.removals, after, root)


def _with_data(run: Run, overrides: Sequence[str], wanted: Wanted) -> Recipe:
    """Return the run's recipe with its data where that is now."""
    for_all = [override for override in overrides if override.startswith(CHANGEABLE_SETTINGS)]
    for override in overrides:
        trains = wanted.retrain is not None and override.startswith(TRAINING_SETTINGS)
        if override not in for_all and not trains:
            raise InputError(f"{override}: only the data, the device and the evaluation may change")
    recipe = recipe_with(run.recipe, for_all)
    require_sources(recipe, run.path, overrides)
    if recipe.lora.rank:
        # What is pruned is the network with its adapters merged in.
        recipe = recipe.replace(lora=Lora())
        if wanted.retrain is not None and not any(o.startswith("optimizer.lr=") for o in overrides):
            say(
                f"all weights are trained on now, at optimizer.lr={recipe.optimizer.lr:g}, which "
                "was that of adapters: whole weights usually want a lower one"
            )
    if recipe.data.corpus != run.recipe.data.corpus:
        # Another text, which must have the run's tokenizer.
        recipe = recipe.replace(data={"fingerprint": None}, start=run.path)
    return recipe
