"""Starting from the weights of another run, or resuming an interrupted one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wafergpt.checkpoint import store
from wafergpt.checkpoint.averaging import step_of
from wafergpt.config import Model, Recipe, load_recipe, recipe_from
from wafergpt.config.files import HORIZONS, flat, merged
from wafergpt.distributed.collectives import ProcessGroup
from wafergpt.errors import InputError
from wafergpt.logs import say
from wafergpt.runs.moved import located
from wafergpt.runs.run import SCRATCH, AnyRun, Run
from wafergpt.shapes.sparse import matrices
from wafergpt.tasks.tables import SplitRows

CHANGEABLE_KEYS = (
    "train.steps", "system.nproc", "system.shard", "system.threads", "system.timeout",
    "system.device", "system.compile",
)  # fmt: skip
CHANGEABLE_SECTIONS = ("evaluate.", "checkpoint.", "tracking.", "system.cerebras.")
"""Keys, and sections with all keys, that a resumed run may override: they change no weight before
the old horizon, except for the rounding of sums over another number of processes or threads or in
other code, and the dropout of processes."""

MOVABLE_KEYS = {
    False: ("data.corpus", "train.teacher"),
    True: ("task.train", "task.validation", "task.test", "train.teacher"),
}
"""Without and with a task, the paths of the same files, which may have moved."""


def may_change(run: Run, overrides: Sequence[str]) -> Recipe:
    """Return a run's recipe with overrides that keep a resume bit-exact.

    Raises:
        InputError: on an override of anything else, or a horizon that an unfinished run has passed.
    """
    recipe = run.recipe
    moves = MOVABLE_KEYS[recipe.task is not None]
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key not in CHANGEABLE_KEYS + moves and not key.startswith(CHANGEABLE_SECTIONS):
            raise InputError(
                f"'{override}' cannot change on resume; only train.steps, evaluate.*, "
                "checkpoint.*, tracking.*, system.device, compile, cerebras, nproc, shard, threads "
                f"and timeout can, and the place of the same files ({', '.join(moves)})"
            )
    changes = load_recipe(None, overrides).model_dump(exclude_unset=True)
    changed = recipe_from(merged(recipe.model_dump(), changes))
    if changed.evaluate.metric != recipe.evaluate.metric:
        raise InputError(
            f"evaluate.metric={changed.evaluate.metric} cannot change on resume: the best "
            f"checkpoint so far is chosen by {recipe.evaluate.metric}"
        )
    if changed.evaluate.batches != recipe.evaluate.batches:
        raise InputError(
            f"evaluate.batches={changed.evaluate.batches} cannot change on resume: the scores "
            f"so far are of {recipe.evaluate.batches}"
        )
    if recipe.train.steps is None or changed.train.steps is None:
        raise InputError("a run has its horizon in steps: it cannot be resumed without train.steps")
    if changed.train.steps != recipe.train.steps:
        _require_ahead(run, changed.train.steps)
        say(
            f"the horizon changes from {recipe.train.steps:,} to {changed.train.steps:,} steps: "
            "the learning rate follows the new one from here on"
        )
    return changed


def _require_ahead(run: Run, steps: int) -> None:
    done = max(map(step_of, store.every(run)), default=0)
    # A finished run keeps its result.
    if done > steps and run.read("result") is None:
        raise InputError(
            f"train.steps={steps}: {run.path} has made {done:,} updates already, and its learning "
            "rate is not yet at its end: choose more, or leave train.steps out"
        )


def language_model(start: AnyRun, root: Path) -> Run:
    """Open the language model to start from.

    Raises:
        InputError: if there is none, it is fine-tuned for a task, or it has no weights.
    """
    run = Run.find(start, root)
    if run.recipe.task is not None:
        raise InputError(f"{run.path} has a task already: start from a language model")
    return beginning(run, root)


def beginning(start: AnyRun, root: Path) -> Run:
    """Open the run that a fine-tuning starts from: a language model, or a task's.

    Raises:
        InputError: if there is none, or it has no weights.
    """
    run = Run.find(start, root)
    if not (run.checkpoint or store.every(run)):
        raise InputError(f"{run.path} has no checkpoint yet")
    return run


def start_run(start: AnyRun | None, root: Path) -> Run | None:
    """Open the run that a fine-tuning starts from; None for fresh weights.

    Raises:
        InputError: as ``beginning``.
    """
    return None if start in (None, "", SCRATCH) else beginning(start, root)


def on_top_of(recipe: Recipe, start: Run) -> Recipe:
    """Take the shape from the run to start from; its dropout may differ, and n-grams be added.

    Raises:
        InputError: if the recipe has another shape, or adapters that do not fit it.
    """
    shape = start.recipe.model
    changed = {"dropout"}
    if recipe.model.ngrams and not shape.ngrams:
        changed |= {"ngrams", "ngram_rows"}
    for key in type(shape).model_fields.keys() - changed - {"d_ffn", "vocab_size"}:
        default = getattr(Model.model_validate({}), key)
        if getattr(recipe.model, key) not in (default, getattr(shape, key)):
            raise InputError(
                f"model.{key}={getattr(recipe.model, key)} cannot change: "
                f"the weights of {start.path} have {key}={getattr(shape, key)}"
            )
    model = shape.model_copy(update={key: getattr(recipe.model, key) for key in changed})
    if recipe.lora.rank:
        _require_adaptable(recipe, shape)
    return recipe.replace(model=model, start=start.path.resolve())


def _require_adaptable(recipe: Recipe, shape: Model) -> None:
    for (_, role), (fan_out, fan_in) in matrices(shape, recipe.lora).items():
        if recipe.lora.rank > min(fan_out, fan_in):
            raise InputError(
                f"lora.rank={recipe.lora.rank} is more than {role}, {fan_out} × {fan_in}, can "
                f"have: at most {min(fan_out, fan_in)}"
            )
    if recipe.model.ngrams and not shape.ngrams:
        raise InputError(
            "model.ngrams are added to a network that is trained as a whole: leave them out, or "
            "lora.rank"
        )


def asked_for(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as asked for, to compare with a later one; its paths are absolute."""
    values = recipe.model_dump(mode="json")
    paths = {
        "data": ("corpus",), "task": ("train", "validation", "test"), "train": ("teacher",),
    }  # fmt: skip
    for section, keys in paths.items():
        found = values[section] or {}
        found |= {key: str(Path(found[key]).resolve()) for key in keys if found.get(key)}
    return values


def run_to_resume(recipe: Recipe, root: Path, group: ProcessGroup) -> tuple[Run, Recipe] | None:
    """Return the run that the same recipe started under this name, if any, and its recipe.

    The leader looks, and broadcasts the result. What may change on a resume may differ, and is
    taken over. A run that was killed before its first checkpoint is empty, and is removed.

    Raises:
        InputError: if another recipe started it, or it is in use.
    """
    run = Run(root / recipe.name)
    there = group.broadcast(None if group.is_worker else _differences(run, recipe))
    if there is None:
        return None
    return run, _changed(run, there)


def _differences(run: Run, recipe: Recipe) -> list[str] | None:
    """Return how a recipe differs from the run's, as overrides; None without a run."""
    if not run.path.exists():
        return None
    changes = changes_since(run, recipe)
    if store.every(run):
        return changes
    _changed(run, changes)
    with run.held():
        if store.every(run):
            return changes
        say(f"{run.path} was killed before its first checkpoint, and starts again")
        shutil.rmtree(run.path)
    return None


def changes_since(run: Run, recipe: Recipe) -> list[str]:
    """Return how a recipe differs from what a run was asked for, as overrides.

    Raises:
        InputError: if it was asked for nothing: its weights were given.
    """
    asked = run.read("asked")
    if not isinstance(asked, dict):
        raise InputError(
            f"{run.path} was not started by pretrain or finetune: choose another name=NAME"
        )
    # Keys that are newer than the run had their defaults.
    before = located(recipe_from(asked), run.path)
    if _same_weights(before.start, recipe.start):
        before = before.model_copy(update={"start": recipe.start})
    then, now = flat(asked_for(before)), flat(asked_for(recipe))
    return [
        f"{key}={json.dumps(value, ensure_ascii=False)}"
        for key, value in now.items()
        # A horizon that is not asked for is the run's.
        if value != then.get(key) and not (value is None and key.removeprefix("train.") in HORIZONS)
    ]


def require_same_command(run: Run, recipe: Recipe) -> None:
    """Require that a run was asked for by this recipe.

    Args:
        run: of the same call before.
        recipe: as asked for now.

    Raises:
        InputError: naming keys that differ.
    """
    if changes := changes_since(run, recipe):
        raise InputError(
            f"{run.path} is of another command ({', '.join(changes[:3])} differ): choose "
            "another name=NAME"
        )


def require_same_rows(run: Run, tables: SplitRows[Any], there: str) -> None:
    """Require that a run was trained on these rows, if it has read any yet.

    Args:
        run: of the same call before.
        tables: the rows now.
        there: where they are, for people, with its verb.

    Raises:
        InputError: if they are others.
    """
    if run.recipe.data.fingerprint not in (None, tables.fingerprint()):
        raise InputError(
            f"{run.path} was trained on other rows than {there} now: choose another name=NAME"
        )


def _same_weights(one: Path | None, other: Path | None) -> bool:
    """Return whether two runs to start from have the same weights."""
    if one is None or other is None:
        return False
    try:
        hashes = [Run(path).read("result")["weights_sha256"] for path in (one, other)]
    except (InputError, KeyError, TypeError):
        return False
    return hashes[0] is not None and hashes[0] == hashes[1]


def _changed(run: Run, changes: Sequence[str]) -> Recipe:
    try:
        return may_change(run, changes)
    except InputError as error:
        raise InputError(
            f"{run.path} was started by another recipe: {error}; or choose another name=NAME"
        ) from None
