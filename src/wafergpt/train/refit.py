"""Refit: train once with held-out rows to measure, then on all rows.

The first one is the run ``NAME-held-out``: its metrics are those of rows that it has not learned,
and it settles what is fitted to such rows. The second one, ``NAME``, learns them too. Imports torch
only to train.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wafergpt.config import Recipe
from wafergpt.data.row_sources import row_files
from wafergpt.errors import InputError
from wafergpt.logs import place, say, silent
from wafergpt.runs.run import Run
from wafergpt.tasks.base import task_of
from wafergpt.tasks.classify_settings import ClassifySettings
from wafergpt.tasks.labelled_task import LabelledTask

FEW_ROWS = 1000
"""Up to so many rows a tenth of them is worth a second training (benchmarks/RESULTS.md)."""


def is_worth_it(recipe: Recipe, start: Run | None, root: Path) -> bool:
    """Return whether held-out rows of a fine-tuning without a recipe should be learned too.

    They are few, nothing depends on them after the training, and there are others to judge the
    network by.

    Args:
        recipe: of the fine-tuning, with what was chosen.
        start: the run to start from; None for fresh weights.
        root: the folder that holds runs.
    """
    before = None if start is None else start.recipe.task
    if before is not None and before.name == "classify":
        return False
    if recipe.train.seconds or recipe.evaluate.patience or recipe.system.device == "cerebras":
        return False
    settings = recipe.task
    # Measured for one label to a text alone.
    if not isinstance(settings, ClassifySettings) or settings.multi:
        return False
    if settings.abstain or settings.calibrate or settings.out_of_scope:
        return False
    try:
        task, wanted = _twice(recipe)
    except InputError:
        return False
    begun = Run(root / recipe.name).path.exists()
    if begun and not Run(root / wanted.name).path.exists():
        return False
    if "test" not in row_files(settings.sources):
        return False
    tables = task.read_ahead()
    assert tables.validation is not None
    return len(tables.train.texts) + len(tables.validation.texts) <= FEW_ROWS


def refitted(recipe: Recipe, start: Run | None, root: Path) -> Run:
    """Train without the held-out rows, and then on all; the same call, made again, goes on.

    Args:
        recipe: as asked for; its name is that of the network of all rows.
        start: the run to start from; None for fresh weights.
        root: the folder that holds runs.

    Returns:
        The network of all rows, judged by the test rows if there are any. Its validation metrics
        and outputs are those of the other one: ``held_out`` has that ``run``, and the number of
        ``rows`` that it has not learned.

    Raises:
        InputError: if nothing is held out of the rows, the recipe is impossible, the rows unusable,
            or a name taken.
        RunFailed: if a training diverges.
        Interrupted: after saving, if a signal requested a stop.
    """
    from wafergpt.train.resume import require_same_command, require_same_rows
    from wafergpt.train.run import trained_once

    task, wanted = _twice(recipe)
    first = Run(root / wanted.name)
    if first.path.exists():
        require_same_command(first, wanted)
        require_same_rows(first, task.read_ahead(), "there are")
    else:
        Run.require_new(recipe.name, root)
        say(f"two trainings: {first.name} without the held-out rows, {recipe.name} on all (refit)")
    before = len(task.read_ahead().train.texts)
    first = trained_once(wanted, start=start, root=root, test=False)
    result = first.read("result")
    whole = of_all_rows(recipe, result["fitted"], result["passes"])
    say(f"{recipe.name}: on all rows, {whole.train.epochs:.3g} passes")
    run = trained_once(whole, start=start, root=root)
    learned = task_of(run.recipe)
    assert isinstance(learned, LabelledTask)
    with silent():
        rows = len(learned.tables.train.texts) - before
    # What is known of validation rows is what was measured before they were learned.
    found = {"run": str(first.path), "rows": rows, "metrics": result["metrics"]}
    run.write_outputs({**first.read_outputs(), **run.read_outputs()})
    run.write("result", run.read("result") | {"metrics": result["metrics"]})
    run.write("held_out", found)
    return run


def of_all_rows(recipe: Recipe, fitted: Mapping[str, Any], passes: float) -> Recipe:
    """Return a recipe without held-out rows.

    Args:
        recipe: of a training with some.
        fitted: keys of the section ``task`` that were settled by them.
        passes: that the other training took; if its last one was not whole, it was rounded up.

    Returns:
        The recipe of the network of all rows.
    """
    passes = min(passes, recipe.train.epochs or math.inf)
    return recipe.replace(
        task={**fitted, "folds": 0, "fold": 1, "held_out": 0.0},
        train={"steps": None, "tokens": None, "seconds": None, "epochs": passes},
        evaluate={"patience": 0, "prompts": ()},
    )


def _twice(recipe: Recipe) -> tuple[LabelledTask[Any], Recipe]:
    """Return the task, and the recipe of the first training, ``NAME-held-out``.

    Raises:
        InputError: if it is impossible to train twice.
    """
    settings = recipe.task
    task = None if settings is None else task_of(recipe)
    if settings is None or not isinstance(task, LabelledTask):
        raise InputError("refit is for tasks that learn from labelled rows: omit it")
    if "validation" in row_files(settings.sources):
        raise InputError("validation rows in a file of their own are never learned: omit refit")
    if settings.folds:
        raise InputError("task.folds holds out other rows in each training: omit refit")
    if not settings.held_out:
        raise InputError("task.held_out=0 learns all rows by itself: omit refit")
    if recipe.system.nproc > 1 or place()[1] > 1:
        raise InputError("refit trains twice, one after the other, in one process: nproc=1")
    if recipe.train.teacher is not None:
        raise InputError("train.teacher has a tokenizer of other rows: omit refit")
    return task, recipe.replace(name=f"{recipe.name}-held-out")
