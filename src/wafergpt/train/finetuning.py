"""The recipe of a new fine-tuning; imports torch only to read a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wafergpt.config import Recipe
from wafergpt.config.files import flat
from wafergpt.config.recipe import DEFAULT_TASK
from wafergpt.errors import InputError
from wafergpt.progress import place
from wafergpt.runs.run import Run
from wafergpt.tasks.base import task_of
from wafergpt.tasks.labelled_task import LabelledTask

FEW = 1000
"""Up to so many rows a tenth of them is worth a second training (benchmarks/RESULTS.md)."""

OF_FIRST = "{}-held-out"


def with_task(
    recipe: Recipe,
    start: Run | None,
    task: str | None = None,
    data: str | Path | None = None,
    chooses: bool = False,
) -> Recipe:
    """Add the task, take the shape from the pretrained run, and name a run that has no name.

    Args:
        recipe: as asked for.
        start: the run to start from; None for fresh weights.
        task: the task's name, if the recipe does not name it.
        data: the labelled rows to train on, if the recipe does not name them.
        chooses: whether what was not asked for is chosen by the rows.

    Raises:
        InputError: if the recipe has another shape than the run, or another task or rows.
    """
    own = recipe.task
    if own is not None and task not in (None, own.name):
        raise InputError(f"task={task}, but the recipe's own is task.name={own.name}: give one")
    if own is not None and data is not None and own.train not in (None, Path(data)):
        raise InputError(f"data={data}, but the recipe has task.train={own.train}: give one")
    asked = flat(recipe.model_dump(exclude_unset=True))
    closed = set(asked)
    before = None if start is None else start.recipe.task
    name = task or (DEFAULT_TASK if own is None else own.name)
    if before is not None and task is None and "task.name" not in asked:
        name, given = before.name, {} if own is None else own.model_dump(exclude_unset=True)
        recipe = recipe.model_copy(update={"task": None}).replace(task={**given, "name": name})
    recipe = recipe.replace(task={"name": name, **({"train": data} if data else {})})
    if str(recipe.task and recipe.task.train).startswith("hf:"):
        from wafergpt.tasks.hub_rows import with_hub_rows

        recipe = with_hub_rows(recipe)
    if start is not None:
        from wafergpt.train.going_on import going_on
        from wafergpt.train.resume import on_top_of

        recipe = on_top_of(recipe, start)
        recipe, closed = going_on(recipe, start, asked)
    recipe.lora.require_start(start)
    chosen_for = task_of(recipe) if chooses else None
    if isinstance(chosen_for, LabelledTask) and chosen_for.settings.train is not None:
        recipe = chosen_for.with_choices(closed)
    if "name" not in asked:
        recipe = recipe.replace(name=f"{start.name if start else 'scratch'}-{name}")
    return recipe


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
    begun = Run(root / recipe.name).path.exists()
    if begun and not Run(root / OF_FIRST.format(recipe.name)).path.exists():
        return False
    # Measured for one label to a text alone.
    others = ("multi", "abstain", "calibrate", "out_of_scope")
    if recipe.task is None or recipe.task.name != "classify":
        return False
    if any(getattr(recipe.task, key, None) for key in others):
        return False
    try:
        task, _ = twice(recipe)
    except InputError:
        return False
    if "test" not in task.files():
        return False
    tables = task.read_ahead()
    assert tables.validation is not None
    return len(tables.train.texts) + len(tables.validation.texts) <= FEW


def twice(recipe: Recipe) -> tuple[LabelledTask[Any], Recipe]:
    """Return the task, and the recipe of the first one of two trainings (see ``refit``).

    Args:
        recipe: as asked for.

    Returns:
        The task, and the recipe of ``NAME-held-out``.

    Raises:
        InputError: if it is impossible to train twice.
    """
    settings = recipe.task
    task = None if settings is None else task_of(recipe)
    if settings is None or not isinstance(task, LabelledTask):
        raise InputError("refit is for tasks that learn from labelled rows: omit it")
    if "validation" in task.files():
        raise InputError("validation rows in a file of their own are never learned: omit refit")
    if settings.folds:
        raise InputError("task.folds holds out other rows in each training: omit refit")
    if not settings.held_out:
        raise InputError("task.held_out=0 learns all rows by itself: omit refit")
    if recipe.system.nproc > 1 or place()[1] > 1:
        raise InputError("refit trains twice, one after the other, in one process: nproc=1")
    if recipe.train.teacher is not None:
        raise InputError("train.teacher has a tokenizer of other rows: omit refit")
    return task, recipe.replace(name=OF_FIRST.format(recipe.name))
