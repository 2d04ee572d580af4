"""Beginning with the weights of another run, or where an interrupted one stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from wafergpt.config import Model, Recipe
from wafergpt.errors import InputError
from wafergpt.parallel.team import Team
from wafergpt.progress import say
from wafergpt.recipe_files import flat
from wafergpt.run import Run
from wafergpt.train import checkpoint
from wafergpt.train.settings import may_change


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


def begun_before(recipe: Recipe, root: Path, team: Team) -> tuple[Run, Recipe] | None:
    """Return the run that the same recipe began under this name, if one did, and its recipe.

    The leader looks, and all go by it. What may change on a resume may differ, and is taken over. A
    run that was killed before its first checkpoint has nothing in it, and makes room.

    Raises:
        InputError: if another recipe began it, or it is in use.
    """
    there = team.told(None if team.follows else _is_there(recipe, root))
    if there is None:
        return None
    run = Run(root / recipe.name)
    return run, may_change(run.recipe, there)


def _is_there(recipe: Recipe, root: Path) -> list[str] | None:
    """Return what differs between the recipe that began a run and this one, as overrides."""
    run = Run(root / recipe.name)
    if not run.path.exists():
        return None
    asked = run.read("asked")
    if not isinstance(asked, dict):
        raise InputError(
            f"{run.path} was not begun by pretrain or finetune: choose another name=NAME"
        )
    then, now = flat(asked), flat(recipe.model_dump(mode="json"))
    changes = [f"{key}={json.dumps(now.get(key))}" for key in now if now[key] != then.get(key)]
    may_change(run.recipe, changes)
    if checkpoint.every(run):
        return changes
    with run.held():
        say(f"{run.path} was killed before its first checkpoint, and begins again")
        shutil.rmtree(run.path)
    return None
