"""Retrain a pruned run, or search for the smallest one within a loss limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from wafergpt.checkpoint.imported_run import require_new
from wafergpt.config import Recipe, load_recipe
from wafergpt.config.quantities import token_count
from wafergpt.config.sparsity import BLOCKS
from wafergpt.config.warmup import warmup_share, warmup_steps
from wafergpt.errors import InputError, RunFailed
from wafergpt.logs import say
from wafergpt.pruning.calibration_network import Calibrated
from wafergpt.pruning.removal import Removal, how, take_out
from wafergpt.pruning.unstructured import NOTABLE_ZEROS
from wafergpt.runs.run import Run
from wafergpt.runs.teacher import with_teacher
from wafergpt.tasks.base import task_of
from wafergpt.train.run import trained_once

LOSS_TOLERANCE = 1e-3
"""Relative difference of two evaluations of the same weights on the same data."""

TRAINING_SETTINGS = (
    "train.", "optimizer.", "schedule.", "checkpoint.", "guard.", "tracking.", "seed=",
)  # fmt: skip
"""What may be overridden for the training alone."""


@dataclass(frozen=True)
class Retraining:
    """How a pruned run is trained on: as the run was, unless something is overridden.

    Attributes:
        amount: tokens of a language model, passes over the rows of a task.
        distill: learn from the run as it was before, too.
        max_loss_increase: as a share: find the smallest run that keeps to it.
        overrides: ``section.key=value`` strings.
    """

    amount: float
    distill: bool = False
    max_loss_increase: float | None = None
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_loss_increase is not None and self.max_loss_increase <= 0:
            raise InputError("a limit of the loss is above 0")

    @staticmethod
    def amount_of(text: str | float, recipe: Recipe) -> float:
        """Read an amount of training: tokens such as ``4M``, or passes over rows.

        Raises:
            InputError: if it is none, or less than a batch.
        """
        batch = recipe.train.batch_size * recipe.model.seq_len
        try:
            if recipe.task is None:
                found: float = token_count(f"{text:.0f}" if isinstance(text, float) else str(text))
                enough = found >= batch
            else:
                found = float(text)
                enough = 0 < found < math.inf
        except ValueError:
            enough = False
        if not enough:
            wanted = "a classifier or regression takes passes over its rows, as in 1"
            if recipe.task is None:
                wanted = f"a language model takes tokens, as in 4M, at least a batch of {batch:,}"
            raise InputError(f"--retrain {text}: {wanted}")
        return found

    def recipe(self, recipe: Recipe, run: Run, name: str, start: Run | None = None) -> Recipe:
        """Return the recipe of the training.

        Args:
            recipe: of the run that is pruned, with its data where that is now.
            run: itself.
            name: of the new run.
            start: the pruned run; without it, the recipe is only checked.

        Raises:
            InputError: if an override is impossible.
        """
        train, schedule = recipe.train, recipe.schedule
        amount = {"tokens": round(self.amount)} if recipe.task is None else {"epochs": self.amount}
        warmup = schedule.warmup
        if train.steps and warmup_share(warmup) is None:
            counted = warmup_steps(warmup, train.steps, train.batch_size * recipe.model.seq_len)
            warmup = f"{100 * counted / train.steps:.4f}%"
        teacher = {"teacher": run.checkpoint or run.path.resolve(), "sampled_softmax": 0}
        found = recipe.replace(
            name=name,
            train={
                **dict.fromkeys(("steps", "tokens", "epochs", "seconds")),
                **dict.fromkeys(("first_steps", "first_batch_size"), 0),
                **({"micro_batch_size": 0} if task_of(recipe).independent else {}),
                **dict.fromkeys(("teacher", "teacher_sha256")),
                **amount,
                **(teacher if self.distill else {}),
            },
            schedule={"warmup": warmup},
            sparsity={"algorithm": "none", "supar": False},
            evaluate={"every": 0, "batches": 0},
            checkpoint={"every": 0, "time_limit": 0.0},
            system={"nproc": 1, "shard": 1},
        )
        if start is not None:
            now, zeros = start.recipe, start.read("result")["sparsity"]
            # Those of all matrices, wherever the run that was pruned had its own.
            static = {"algorithm": "static", "sparsity": zeros, "roles": BLOCKS}
            static = {**static, "distribution": "uniform"} if zeros > NOTABLE_ZEROS else {}
            task = {} if now.task is None else {"task": now.task}
            found = found.replace(
                start=start.path.resolve(), model=now.model, data=now.data, sparsity=static, **task
            )
        changes = load_recipe(None, self.overrides).model_dump(exclude_unset=True)
        return found.replace(**changes) if changes else found


def prune_and_retrain(
    run: Run,
    recipe: Recipe,
    name: str,
    removals: Sequence[Removal],
    retraining: Retraining,
    root: Path,
) -> Run:
    """Prune a run, and train what is left on; with a limit, find the smallest that keeps to it.

    Each pruned run is ``NAME-pruned``, and is trained on as ``NAME``. With a limit there are
    several names, and all of them are kept: the same call, made again, repeats none of them.

    Args:
        run: a language model or a task's, with its data.
        recipe: the run's, with its data where that is now.
        name: of the new run; with a limit, what the names begin with.
        removals: what to take out; with a limit, the most that is.
        retraining: how to train.
        root: the folder that holds runs.

    Returns:
        The new run; its result has what was measured of it in ``retraining``.

    Raises:
        InputError: if a name is taken, the data is gone, or the pruning or an override impossible.
        RunFailed: if no run keeps to the limit; the best one is named.
        Interrupted: if a signal requested a stop.
    """
    with_teacher(retraining.recipe(recipe, run, name), root)
    for each in removals:
        each.require(run.name, recipe)
    if retraining.max_loss_increase is None:
        _require_free(name, root)
        parent = _ParentRun(run, recipe, retraining, root)
        return parent.made(name, removals)
    *first, last = removals
    found = last.sizes(recipe, name)
    for each_name, _ in found:
        _require_free(each_name, root)
    parent = _ParentRun(run, recipe, retraining, root)
    candidates = [(each_name, [*first, size]) for each_name, size in found]
    return parent.smallest(candidates, retraining.max_loss_increase)


def _require_free(name: str, root: Path) -> None:
    """Require that a name is new, unless an earlier call has pruned for it."""
    if not (root / _pruned(name)).exists():
        require_new(Recipe().replace(name=name).name, root)


def _pruned(name: str) -> str:
    return f"{name}-pruned"


class _ParentRun:
    """A run that others are made from, each pruned and trained on."""

    def __init__(self, run: Run, recipe: Recipe, retraining: Retraining, root: Path) -> None:
        self._run, self._recipe, self._retraining, self._root = run, recipe, retraining, root
        self._network = Calibrated.of(run, recipe)
        self._before = self._network.first(run.name).loss

    def smallest(self, candidates: Sequence[tuple[str, Sequence[Removal]]], share: float) -> Run:
        """Return the smallest run within a limit of the loss, of those found by bisection.

        Raises:
            InputError: if there are no candidates.
            RunFailed: if none of those tried is within it.
        """
        zeros = self._network.zeros()
        candidates = [
            (name, removals) for name, removals in candidates if removals[-1].adds_to(zeros)
        ]
        if not candidates:
            raise InputError(f"{self._run.name} has {zeros:.1%} zeros already: nothing to search")
        limit, tried = (1 + share) * self._before, dict[str, float]()

        def keeps(candidate: tuple[str, Sequence[Removal]]) -> bool:
            name, removals = candidate
            loss = self.made(name, removals).read("result")["retraining"]["val_loss_retrained"]
            tried[name] = loss
            say(f"{name}: validation loss {loss:.4f} (limit {limit:.4f})")
            return bool(loss <= limit)

        found = first_that(candidates, keeps)
        if found is None:
            best = min(tried, key=lambda name: tried[name])
            more = tried[best] / self._before - 1
            raise RunFailed(
                f"none of {', '.join(tried)} keeps the loss within {limit:.4f}; the best is "
                f"{self._root / best}, with {tried[best]:.4f} ({more:+.1%})"
            )
        run = Run(self._root / found[0])
        result = run.read("result")
        result["retraining"] |= {"limit": limit, "tried": tried}
        run.write("result", result)
        return run

    def made(self, name: str, removals: Sequence[Removal]) -> Run:
        """Prune, train on, and measure, unless that is done."""
        pruned = self._pruned_run(_pruned(name), removals)
        recipe = self._retraining.recipe(self._recipe, self._run, name, pruned)
        run = trained_once(recipe, start=pruned, root=self._root)
        after = self._network.with_weights(run).evaluated()
        facts = pruned.read("result")
        for key in ("run", "step", "weights_sha256", "tokens", "loss", "val_loss", "metrics"):
            facts.pop(key, None)
        facts |= {"val_loss_retrained": after.loss, "seconds_retrained": after.seconds}
        run.write("result", run.read("result") | {"retraining": facts})
        return run

    def _pruned_run(self, name: str, removals: Sequence[Removal]) -> Run:
        path = self._root / name
        if not path.exists():
            return take_out(self._run, self._recipe, name, removals, self._root)
        result = Run(path).read("result") or {}
        same = result.get("how") == how(removals) and math.isclose(
            result.get("val_loss_before", 0.0), self._before, rel_tol=LOSS_TOLERANCE
        )
        if not same:
            raise InputError(f"{path} was not made by this command: choose another --name")
        return Run(path)


C = TypeVar("C")


def first_that(candidates: Sequence[C], keeps: Callable[[C], bool]) -> C | None:
    """Return the first candidate that ``keeps``, if later ones do too: by bisection.

    Args:
        candidates: at least one; the first is tried first.
        keeps: slow.

    Returns:
        The candidate; None if none of those tried does.
    """
    if keeps(candidates[0]):
        return candidates[0]
    found, low, high = None, 1, len(candidates) - 1
    while low <= high:
        middle = (low + high) // 2
        if keeps(candidates[middle]):
            found, high = candidates[middle], middle - 1
        else:
            low = middle + 1
    return found
