"""Reading recipes: a file or a shipped name, and overrides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from wafergpt.config.files import merged, read_values
from wafergpt.config.keys import Key, keys_of
from wafergpt.config.overrides import apply_override
from wafergpt.config.recipe import DEFAULT_TASK, Recipe, recipe_from, settings_of


@cache
def known_keys(task: str = DEFAULT_TASK) -> Mapping[str, Key]:
    """Return the kind of each key of a recipe by its full name, such as ``train.steps``.

    Args:
        task: whose own keys are included.

    Raises:
        InputError: if there is no such task.
    """
    return keys_of(Recipe) | keys_of(settings_of({"name": task}), "task.")


def load_recipe(name: str | Path | None, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe (a path, a shipped name, or None for the defaults) and apply overrides.

    Args:
        name: a YAML file, or a name from ``shipped_recipes``.
        overrides: ``section.key=value`` strings; a text is as typed, a path is a path (``~`` is
            the home folder), and all else is read as YAML. Of two for one key the last wins.

    Raises:
        InputError: on an unknown name or key, or an impossible value.
    """
    overrides = list(overrides)
    keys = known_keys(_task_named(name, overrides))
    changes: dict[str, Any] = {}
    for override in overrides:
        apply_override(changes, override, keys)
    values = merged({} if name is None else read_values(str(name), keys), changes)
    return recipe_from(values, source=None if name is None else str(name))


def recipe_with(recipe: Recipe | str | Path | None, overrides: Sequence[str]) -> Recipe:
    """Return a recipe, given or read by ``load_recipe``, with overrides applied.

    Args:
        recipe: a recipe; a YAML file; a name from ``shipped_recipes``; or None for the defaults.
        overrides: ``section.key=value`` strings.

    Raises:
        InputError: on an unknown name or key, or an impossible value.
    """
    if not isinstance(recipe, Recipe):
        return load_recipe(recipe, overrides)
    if not overrides:
        return recipe
    own = DEFAULT_TASK if recipe.task is None else recipe.task.name
    keys = known_keys(_task_named(None, overrides, own))
    changes: dict[str, Any] = {}
    for override in overrides:
        apply_override(changes, override, keys)
    values, changed = recipe.model_dump(exclude_unset=True), changes.get("model", {})
    for width, ffn in (("d_model", "d_ffn"), ("base_d_model", "base_d_ffn")):
        follows = getattr(recipe.model, ffn) == 4 * getattr(recipe.model, width)
        if isinstance(changed, dict) and width in changed and follows:
            values.get("model", {}).pop(ffn, None)
    return recipe_from(merged(values, changes))


def _task_named(
    name: str | Path | None, overrides: Sequence[str], otherwise: str = DEFAULT_TASK
) -> str:
    for override in reversed(overrides):
        key, _, value = override.partition("=")
        if key.strip() == "task.name":
            return value.strip()
    values = {} if name is None else read_values(str(name), known_keys())
    task = values.get("task")
    return str(task.get("name", otherwise)) if isinstance(task, Mapping) else otherwise
