"""The recipe of a new fine-tuning; imports torch only to read a run."""

from __future__ import annotations

from pathlib import Path

from wafergpt.config import Recipe
from wafergpt.config.files import flat
from wafergpt.config.recipe import DEFAULT_TASK
from wafergpt.errors import InputError
from wafergpt.runs.run import Run
from wafergpt.tasks.base import task_of
from wafergpt.tasks.labelled_task import LabelledTask


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
