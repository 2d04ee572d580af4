"""The run that a training learns from, as its recipe names it (``train.teacher``)."""

from __future__ import annotations

from pathlib import Path

from wafergpt.config import Model, Recipe
from wafergpt.errors import InputError
from wafergpt.runs.run import RUNS, Run


def with_teacher(recipe: Recipe, root: Path = RUNS) -> Recipe:
    """Return a recipe with the absolute path of its teacher, if it has one.

    Args:
        recipe: as asked for.
        root: the folder that holds runs.

    Returns:
        The recipe.

    Raises:
        InputError: if there is no such run, or it has another task.
    """
    if recipe.train.teacher is None:
        return recipe
    run = teacher_run(recipe, root)
    ours, theirs = (
        "a language model" if task is None else f"task.name={task.name}"
        for task in (recipe.task, run.recipe.task)
    )
    if ours != theirs:
        raise InputError(f"train.teacher={run.path} is {theirs}, and this is {ours}")
    return recipe.replace(train={"teacher": (run.checkpoint or run.path).resolve()})


def teacher_run(recipe: Recipe, root: Path = RUNS) -> Run:
    """Open the teacher.

    Args:
        recipe: that names one.
        root: the folder that holds runs.

    Returns:
        The run.

    Raises:
        InputError: if there is no such run.
    """
    try:
        # As typed on a command line: a name, or a path.
        return Run.find(str(recipe.train.teacher), root)
    except InputError as error:
        raise InputError(f"train.teacher={recipe.train.teacher}: {error}") from None


def teacher_shape(recipe: Recipe) -> Model | None:
    """Read the shape of the teacher, for sequences of the training.

    Args:
        recipe: of the training, its teacher's path absolute.

    Returns:
        The shape; None without a teacher.

    Raises:
        InputError: if the teacher is gone.
    """
    if recipe.train.teacher is None:
        return None
    shape = teacher_run(recipe).recipe.model
    return shape.model_copy(update={"seq_len": min(shape.seq_len, recipe.model.seq_len)})
