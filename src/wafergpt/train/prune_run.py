"""What ``wafergpt prune`` is asked for: zeros, fewer parts or smaller tables, and a retraining."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wafergpt.config import Lora, Recipe, load_recipe
from wafergpt.errors import InputError
from wafergpt.progress import say
from wafergpt.runs.moved import require_sources
from wafergpt.runs.run import Run
from wafergpt.train.narrowing import Narrowing, narrow
from wafergpt.train.pruning import Pruning, prune
from wafergpt.train.retraining import OVERRIDES, Retraining, prune_and_retrain
from wafergpt.train.trimming import Trimming, trim

FOR_ALL = ("data.", "task.", "system.", "evaluate.")
"""Settings of the run that may change."""


@dataclass(frozen=True)
class Wanted:
    """What is to be taken out of a run; one of the first three, zeros if no other is asked for.

    Attributes:
        zeros: weights that are set to zero.
        parts: the shape of a smaller network.
        tables: what stays of tables.
        max_loss_increase: as a share; of zeros, or after the retraining.
        retrain: tokens of a language model, passes over the rows of a task; None for none.
        distill: retrain with the run as the teacher.
    """

    zeros: Pruning
    parts: Narrowing
    tables: Trimming
    max_loss_increase: float | None
    retrain: float | str | None
    distill: bool

    def __post_init__(self) -> None:
        plain = Pruning(samples=self.zeros.samples)
        limited = self.retrain is None and self.max_loss_increase is not None
        blocks = self.zeros != plain or limited
        if self.parts.asked and blocks:
            raise InputError(
                "--layers, --heads and --channels take parts out, and the other options set "
                "weights to zero: one after the other, from run to run; --max-loss-increase finds "
                "a shape with --retrain"
            )
        if self.distill and self.retrain is None:
            raise InputError("--distill is for a retraining: add --retrain")
        if self.tables.asked and (self.parts.asked or self.retrain is not None or blocks):
            raise InputError(
                "--rows and --vocabulary make tables smaller, and the other options change blocks: "
                "one after the other, from run to run"
            )


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
    if wanted.tables.asked:
        return trim(run, recipe, name, wanted.tables, root)
    limit = wanted.max_loss_increase
    if wanted.retrain is not None:
        amount = Retraining.amount_of(wanted.retrain, recipe)
        again = tuple(o for o in overrides if not o.startswith(("data.", "task.")))
        after = Retraining(amount, wanted.distill, limit, again)
        how = wanted.parts if wanted.parts.asked else wanted.zeros
        return prune_and_retrain(run, recipe, name, how, after, root)
    if wanted.parts.asked:
        return narrow(run, recipe, name, wanted.parts, root)
    return prune(run, recipe, name, replace(wanted.zeros, max_loss_increase=limit), root)


def _with_data(run: Run, overrides: Sequence[str], wanted: Wanted) -> Recipe:
    """Return the run's recipe with its data where that is now."""
    for_all = [override for override in overrides if override.startswith(FOR_ALL)]
    for override in overrides:
        trains = wanted.retrain is not None and override.startswith(OVERRIDES)
        if override not in for_all and not trains:
            raise InputError(f"{override}: only the data, the device and the evaluation may change")
    changes = load_recipe(None, for_all).model_dump(exclude_unset=True)
    recipe = run.recipe.replace(**changes) if changes else run.recipe
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
