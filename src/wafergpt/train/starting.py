"""Beginning with the weights of another run instead of fresh ones."""

from __future__ import annotations

from pathlib import Path

from wafergpt.config import Model, Recipe
from wafergpt.errors import InputError
from wafergpt.run import Run


def language_model(start: Run | str | Path, root: Path) -> Run:
    """Open the run to start from.

    Raises:
        InputError: if there is none, or it is fine-tuned for a task.
    """
    run = start if isinstance(start, Run) else Run.find(start, root)
    if run.recipe.task is not None:
        raise InputError(f"{run.path} has a task already: start from a language model")
    return run


def on_top_of(recipe: Recipe, begun: Run) -> Recipe:
    """Take the shape from the run to start from; only its dropout may be another one.

    Raises:
        InputError: if the recipe wants another shape.
    """
    shape = begun.recipe.model
    for key in type(shape).model_fields.keys() - {"dropout", "d_ffn", "vocab_size"}:
        default = getattr(Model.model_validate({}), key)
        if getattr(recipe.model, key) not in (default, getattr(shape, key)):
            raise InputError(
                f"model.{key}={getattr(recipe.model, key)} cannot change: "
                f"the weights of {begun.path} have {key}={getattr(shape, key)}"
            )
    model = shape.model_copy(update={"dropout": recipe.model.dropout})
    return recipe.replace(model=model, start=begun.path.resolve())
