"""A network of all rows, after one without held-out rows has shown how good it is.

The first one is the run ``NAME-held-out``: its metrics are those of rows that it has not learned,
and it settles what is fitted to such rows. The second one, ``NAME``, learns them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wafergpt.config import Recipe
from wafergpt.errors import InputError
from wafergpt.progress import place, say, silent
from wafergpt.runs.run import Run
from wafergpt.tasks.base import task_of
from wafergpt.tasks.labelled_task import LabelledTask
from wafergpt.train.resume import changes_since
from wafergpt.train.run import trained_once

FEW = 1000
"""Up to so many rows a tenth of them is worth a second training (benchmarks/RESULTS.md)."""


def is_worth_it(recipe: Recipe, start: Run | None, root: Path) -> bool:
    """Return whether held-out rows of a fine-tuning without a recipe should be learned too.

    They are few, nothing but the end of the training depends on them, and there are others to
    judge the network by.

    Args:
        recipe: of the fine-tuning, with what was chosen.
        start: the run to start from; None for fresh weights.
        root: the folder that holds runs.
    """
    task, before = recipe.task, None if start is None else start.recipe.task
    if task is None or not task.test or task.validation or not task.held_out or task.folds:
        return False
    if Run(root / recipe.name).path.exists() and not _first(recipe, root).path.exists():
        # It was begun without.
        return False
    if before is not None and before.name == task.name:
        return False
    if recipe.train.seconds or recipe.evaluate.patience or recipe.system.device == "cerebras":
        return False
    if recipe.system.nproc > 1 or place()[1] > 1:
        return False
    labelled = task_of(recipe)
    assert isinstance(labelled, LabelledTask)
    tables = labelled.read_ahead()
    assert tables.validation is not None
    return len(tables.train.texts) + len(tables.validation.texts) <= FEW


def refitted(recipe: Recipe, start: Run | None, root: Path) -> Run:
    """Train without the held-out rows, and then on all; the same call, made again, goes on.

    Args:
        recipe: as asked for; its name is that of the network of all rows.
        start: the run to start from; None for fresh weights.
        root: the folder that holds runs.

    Returns:
        The network of all rows, judged by the test rows if there are any. Its result has in
        ``held_out`` the other run, the number of held-out rows, and their metrics.

    Raises:
        InputError: if nothing is held out of the rows, the recipe is impossible, the rows unusable,
            or a name taken.
        RunFailed: if a training diverges.
        Interrupted: after saving, if a signal requested a stop.
    """
    _require_possible(recipe)
    assert recipe.task is not None
    first, test = _first(recipe, root), recipe.task.test
    wanted = recipe.replace(name=first.name, task={"test": None})
    if first.path.exists():
        _require_same_rows(first, wanted)
    else:
        Run.require_new(recipe.name, root)
    say(f"two trainings: {first.name} without the held-out rows, {recipe.name} on all (refit)")
    trained_once(wanted, start=start, root=root)
    task, result = task_of(first.recipe), first.read("result")
    assert isinstance(task, LabelledTask)
    with silent():
        many = len(task.rows("train").texts), len(task.rows("validation").texts)
    passes = first.recipe.train.samples(result["best_step"]) / many[0]
    whole = of_all_rows(recipe, result["fitted"], passes, test)
    say(f"{recipe.name}: on all {sum(many):,} rows, {passes:.3g} passes")
    run = trained_once(whole, start=start, root=root)
    held_out = {"run": str(first.path), "rows": many[1], "metrics": result["metrics"]}
    run.write("result", run.read("result") | {"held_out": held_out})
    return run


def of_all_rows(
    recipe: Recipe, fitted: Mapping[str, Any], passes: float, test: Path | None
) -> Recipe:
    """Return a recipe without held-out rows.

    Args:
        recipe: of a training with some.
        fitted: keys of the section ``task`` that were settled by them.
        passes: over all rows.
        test: rows to judge by.

    Returns:
        The recipe of the network of all rows.
    """
    return recipe.replace(
        task={**fitted, "folds": 0, "fold": 1, "held_out": 0.0, "test": test},
        train={"steps": None, "tokens": None, "seconds": None, "epochs": passes},
        evaluate={"patience": 0, "prompts": ()},
    )


def _require_possible(recipe: Recipe) -> None:
    task = recipe.task
    if task is None or not isinstance(task_of(recipe), LabelledTask):
        name = "" if task is None else task.name
        raise InputError(f"task.name={name} has no labelled rows to learn again")
    if task.validation is not None:
        raise InputError(f"the rows of {task.validation} are never learned: omit refit")
    if not task.held_out:
        raise InputError("task.held_out=0 learns all rows by itself: omit refit")
    if recipe.system.nproc > 1 or place()[1] > 1:
        raise InputError("refit trains twice, one after the other, in one process: nproc=1")


def _require_same_rows(first: Run, wanted: Recipe) -> None:
    """Require that rows have not changed since the first training."""
    task = task_of(wanted)
    assert isinstance(task, LabelledTask)
    if changes_since(first, wanted):
        # Whether it can go on with them is seen when it does.
        return
    with silent():
        fingerprint = task.read_ahead().fingerprint()
    if first.recipe.data.fingerprint not in (None, fingerprint):
        raise InputError(
            f"{first.path} was trained on other rows than task.train has now: choose another "
            "name=NAME"
        )


def _first(recipe: Recipe, root: Path) -> Run:
    return Run(root / f"{recipe.name}-held-out")
