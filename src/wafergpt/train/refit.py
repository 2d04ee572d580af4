"""A network of all rows, after one without held-out rows has shown how good it is.

The first one is the run ``NAME-held-out``: its metrics are those of rows that it has not learned,
and it settles what is fitted to such rows. The second one, ``NAME``, learns them too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wafergpt.config import Recipe
from wafergpt.errors import InputError
from wafergpt.progress import say, silent
from wafergpt.runs.run import Run
from wafergpt.tasks.base import task_of
from wafergpt.tasks.labelled_task import LabelledTask
from wafergpt.train.finetuning import twice
from wafergpt.train.resume import changes_since
from wafergpt.train.run import trained_once


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
    _, wanted = twice(recipe)
    first = Run(root / wanted.name)
    if first.path.exists():
        _require_same(first, wanted)
    else:
        Run.require_new(recipe.name, root)
        say(f"two trainings: {first.name} without the held-out rows, {recipe.name} on all (refit)")
    first = trained_once(wanted, start=start, root=root, test=False)
    result = first.read("result")
    whole = of_all_rows(recipe, result["fitted"], result["passes"])
    say(f"{recipe.name}: on all rows, {whole.train.epochs:.3g} passes")
    run = trained_once(whole, start=start, root=root)
    with silent():
        learned, before = (_learned(one) for one in (run, first))
    # What is known of validation rows is what was measured before they were learned.
    found = {"run": str(first.path), "rows": learned - before, "metrics": result["metrics"]}
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


def _require_same(first: Run, wanted: Recipe) -> None:
    """Require that neither the recipe nor the rows have changed since the first training."""
    if changes := changes_since(first, wanted):
        raise InputError(
            f"{first.path} is of another command ({', '.join(changes[:3])} differ): choose "
            "another name=NAME"
        )
    task = task_of(wanted)
    assert isinstance(task, LabelledTask)
    if first.recipe.data.fingerprint not in (None, task.read_ahead().fingerprint()):
        raise InputError(
            f"{first.path} was trained on other rows than there are now: choose another name=NAME"
        )


def _learned(run: Run) -> int:
    task = task_of(run.recipe)
    assert isinstance(task, LabelledTask)
    return len(task.tables.train.texts)
