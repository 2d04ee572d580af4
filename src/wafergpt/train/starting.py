"""Beginning with the weights of another run, or where an interrupted one stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wafergpt.config import Model, Recipe, recipe_from
from wafergpt.errors import InputError
from wafergpt.moved import located
from wafergpt.parallel.team import Team
from wafergpt.progress import say
from wafergpt.recipe_files import HORIZONS, flat
from wafergpt.run import Run
from wafergpt.train import checkpoint
from wafergpt.train.settings import may_change


def language_model(start: Run | str | Path, root: Path) -> Run:
    """Open the run to start from.

    Raises:
        InputError: if there is none, it is fine-tuned for a task, or it has no weights.
    """
    run = start if isinstance(start, Run) else Run.find(start, root)
    if run.recipe.task is not None:
        raise InputError(f"{run.path} has a task already: start from a language model")
    if not (run.checkpoint or checkpoint.every(run)):
        raise InputError(f"{run.path} has no checkpoint yet")
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


def asked_for(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as it was asked for, to compare another start with; its paths are whole."""
    values = recipe.model_dump(mode="json")
    for section, keys in (("data", ("corpus",)), ("task", ("train", "validation", "test"))):
        found = values[section] or {}
        found |= {key: str(Path(found[key]).resolve()) for key in keys if found.get(key)}
    return values


def begun_before(recipe: Recipe, root: Path, team: Team) -> tuple[Run, Recipe] | None:
    """Return the run that the same recipe began under this name, if one did, and its recipe.

    The leader looks, and all go by it. What may change on a resume may differ, and is taken over. A
    run that was killed before its first checkpoint has nothing in it, and makes room.

    Raises:
        InputError: if another recipe began it, or it is in use.
    """
    run = Run(root / recipe.name)
    there = team.told(None if team.follows else _differences(run, recipe))
    if there is None:
        return None
    changed = _changed(run, there)
    if not team.follows:
        run.write("asked", asked_for(recipe))
    return run, changed


def _differences(run: Run, recipe: Recipe) -> list[str] | None:
    """Return what a recipe asks for that the run's did not, as overrides; None without a run."""
    if not run.path.exists():
        return None
    asked = run.read("asked")
    if not isinstance(asked, dict):
        raise InputError(
            f"{run.path} was not begun by pretrain or finetune: choose another name=NAME"
        )
    # Keys that are newer than the run have had their defaults.
    before = located(recipe_from(asked), run.path)
    if _same_weights(before.start, recipe.start):
        before = before.model_copy(update={"start": recipe.start})
    then, now = flat(asked_for(before)), flat(asked_for(recipe))
    changes = [
        f"{key}={json.dumps(value, ensure_ascii=False)}"
        for key, value in now.items()
        # A horizon that is not asked for any more is the run's.
        if value != then.get(key) and not (value is None and key.removeprefix("train.") in HORIZONS)
    ]
    if checkpoint.every(run):
        return changes
    _changed(run, changes)
    with run.held():
        if checkpoint.every(run):
            return changes
        say(f"{run.path} was killed before its first checkpoint, and begins again")
        shutil.rmtree(run.path)
    return None


def _same_weights(one: Path | None, other: Path | None) -> bool:
    """Say whether two runs to start from are one, copied."""
    if one is None or other is None:
        return False
    try:
        hashes = [Run(path).read("result")["weights_sha256"] for path in (one, other)]
    except (InputError, KeyError, TypeError):
        return False
    return hashes[0] is not None and hashes[0] == hashes[1]


def _changed(run: Run, changes: Sequence[str]) -> Recipe:
    try:
        return may_change(run.recipe, changes)
    except InputError as error:
        raise InputError(
            f"{run.path} was begun by another recipe: {error}; or choose another name=NAME"
        ) from None
