"""The recipe of a new fine-tuning, from scratch or on a run; imports torch only to read a run."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from wafergpt.config import Recipe
from wafergpt.config.files import flat
from wafergpt.config.recipe import DEFAULT_TASK
from wafergpt.errors import InputError
from wafergpt.logs import say
from wafergpt.runs.run import Run
from wafergpt.tasks.base import task_of
from wafergpt.tasks.labelled_task import LabelledTask

KEYS_OF_ROWS = {
    "name", "train", "validation", "test", "held_out", "folds", "fold", "labels", "known", "units",
    "offsets", "temperature", "abstain_below", "no_answer_margin", "end_of_text", "max_new_tokens",
}  # fmt: skip
"""Keys of a task that new rows decide."""

KEYS_OF_NETWORK = {
    "multi", "pooling", "ngrams", "ngram_rows", "ngram_ratios", "attention", "word_features",
    "feature_rows", "projection",
}  # fmt: skip
"""Keys of a task that its network is built or read by, so that no other value fits its weights."""


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
        from wafergpt.train.resume import on_top_of

        recipe = on_top_of(recipe, start)
        recipe, closed = with_settings_of(start, recipe, asked)
    recipe.lora.require_start(start)
    chosen_for = task_of(recipe) if chooses else None
    if isinstance(chosen_for, LabelledTask) and chosen_for.settings.train is not None:
        recipe = chosen_for.with_choices(closed)
    if "name" not in asked:
        recipe = recipe.replace(name=f"{start.name if start else 'scratch'}-{name}")
    return recipe


def with_settings_of(start: Run, recipe: Recipe, asked: Collection[str]) -> tuple[Recipe, set[str]]:
    """Continue fine-tuning a run that already has a task, with its settings if it is the same task.

    Args:
        start: the run to start from.
        recipe: with its task, on top of ``start``.
        asked: keys as in ``task.pooling``, which stay as they are.

    Returns:
        The recipe, and the keys that are not to be chosen.

    Raises:
        InputError: if another network was asked for than the run has.
    """
    before, task = start.recipe.task, recipe.task
    assert task is not None
    if before is None:
        return recipe, set(asked)
    if before.name != task.name:
        say(f"{start.path} is fine-tuned for {before.name}: its GPT alone goes on, with a new head")
        return recipe, set(asked)
    theirs = before.model_dump()
    settings = {key: value for key, value in theirs.items() if key not in KEYS_OF_ROWS}
    for key in sorted(settings):
        if f"task.{key}" not in asked:
            continue
        if key in KEYS_OF_NETWORK and getattr(task, key) != theirs[key]:
            raise InputError(
                f"task.{key}={getattr(task, key)} cannot change: the network of {start.path} has "
                f"{key}={theirs[key]}"
            )
        settings.pop(key)
    if theirs.get("ngram_ratios") and "task.ngram_kept" not in asked:
        # New rows have n-grams of their own.
        settings["ngram_kept"] = 0
    if "known" in type(task).model_fields:
        settings["known"] = theirs.get("labels", True)
    closed = {f"task.{key}" for key in type(task).model_fields}
    return recipe.replace(task=settings), {*asked, *closed}
