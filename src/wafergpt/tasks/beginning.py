"""The recipe of a fine-tuning as it begins; without torch where nothing is to be read."""

from __future__ import annotations

from pathlib import Path

from wafergpt.config import Recipe
from wafergpt.run import Run


def with_task(
    recipe: Recipe, begun: Run | None, task: str = "classify", data: str | Path | None = None
) -> Recipe:
    """Add the task, take over what the pretrained run decides, and name a run that has no name.

    Args:
        recipe: as asked for.
        begun: the run to start from; None for fresh weights.
        task: the task's name.
        data: the labelled rows to train on, if the recipe does not name them.

    Raises:
        InputError: if the recipe wants another shape than the run's.
    """
    recipe = recipe.replace(task={"name": task, **({"train": data} if data else {})})
    if begun is not None:
        from wafergpt.train.starting import on_top_of

        recipe = on_top_of(recipe, begun)
    if recipe.name == Recipe().name:
        recipe = recipe.replace(name=f"{begun.name if begun else 'scratch'}-{task}")
    return recipe
