"""Fine-tuning a run on that is fine-tuned already."""

from __future__ import annotations

from collections.abc import Collection

from wafergpt.config import Recipe
from wafergpt.errors import InputError
from wafergpt.progress import say, silent
from wafergpt.runs.run import Run
from wafergpt.tasks.base import Task
from wafergpt.tasks.labelled_task import LabelledTask

OF_ROWS = {
    "name", "train", "validation", "test", "held_out", "folds", "fold", "labels", "known", "units",
    "offsets", "temperature", "abstain_below", "no_answer_margin", "end_of_text", "max_new_tokens",
}  # fmt: skip
"""Keys of a task that new rows decide."""


OF_NETWORK = {
    "multi", "pooling", "ngrams", "ngram_rows", "ngram_ratios", "attention", "word_features",
    "feature_rows", "projection",
}  # fmt: skip
"""Keys of a task that its network is built or read by, so that no other value fits its weights."""


def going_on(recipe: Recipe, start: Run, asked: Collection[str]) -> tuple[Recipe, set[str]]:
    """Take over the settings of the run's task, if it is the same one.

    Args:
        recipe: with its task, on top of ``start``.
        start: the run to start from.
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
    settings = {key: value for key, value in theirs.items() if key not in OF_ROWS}
    for key in sorted(settings):
        if f"task.{key}" not in asked:
            continue
        if key in OF_NETWORK and getattr(task, key) != theirs[key]:
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


def warn_of_learned_rows(task: Task, before: Task, start: Run) -> None:
    """Warn if held-out rows are among those that the run to start from has learned.

    Args:
        task: of the training, its rows read.
        before: the run's.
        start: the run, whose rows may be gone by now.
    """
    if not (isinstance(task, LabelledTask) and isinstance(before, LabelledTask)):
        return
    try:
        with silent():
            learned = set(before.tables.train.texts)
    except (InputError, OSError):
        return
    for name in ("validation", "test"):
        table = getattr(task.tables, name)
        texts = [] if table is None else table.texts
        seen = sum(text in learned for text in texts)
        if seen:
            say(
                f"warning: {start.path} has learned from {seen:,} of {len(texts):,} {name} rows: "
                "what is measured on them is too good"
            )
