"""The runs of a folder, as rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wafergpt import files
from wafergpt.errors import InputError
from wafergpt.reports.folds import folds_of
from wafergpt.reports.formatting import first, number, sequence
from wafergpt.reports.sections import Chapter
from wafergpt.runs.run import Run
from wafergpt.tasks.base import task_of

BEST = ("best_step", "best_val_loss", "accuracy", "accuracy_of")


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """Return one row for each run below ``folder``, the newest first.

    Each has name, path, bytes, kind, parameters, state (``finished``, ``unfinished``, ``imported``,
    ``averaged``, ``pruned``, ``folds``, ``shipped``, ``unreadable`` …) and planned_seconds; of the
    last step step, tokens, loss, val_loss, seconds (of the updates) and elapsed (of the command);
    and of the best checkpoint best_step, best_val_loss, accuracy and accuracy_of (``test`` or
    ``val``). Unknown values are None.
    """
    # Hidden folders are being made or removed.
    recipes = sorted(p for p in folder.glob("*/recipe.yaml") if not p.parent.name.startswith("."))
    return [_row(Run(recipe.parent)) for recipe in sorted(recipes, key=_changed, reverse=True)]


def _changed(recipe: Path) -> float:
    written = (recipe.with_name(name) for name in ("recipe.yaml", "metrics.jsonl", "result.json"))
    return max(path.stat().st_mtime for path in written if path.exists())


def _row(run: Run) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": run.name,
        "path": str(run.path),
        "bytes": files.tree_bytes(run.path),
    }
    last = ("step", "tokens", "loss", "val_loss", "seconds", "elapsed")
    try:
        chapter = Chapter.of(run)
    except (InputError, OSError) as error:
        # One bad folder must not hide the others.
        empty: dict[str, None] = dict.fromkeys(
            ("kind", "parameters", *last, "planned_seconds", *BEST)
        )
        state = "damaged" if isinstance(error, InputError) else "unreadable"
        return row | empty | {"state": state, "error": str(error)}
    return row | {
        "kind": "finetune" if chapter.recipe.task else "pretrain",
        "parameters": first("parameters", chapter.result, chapter.plan),
        **{key: chapter.now(key) for key in last},
        "planned_seconds": number(chapter.plan, "seconds"),
        **_best(chapter),
        "state": _state(chapter),
    }


def _state(chapter: Chapter) -> str:
    if chapter.run.shipped:
        return "shipped"
    if chapter.origin == "folds":
        folds = folds_of(chapter.result)
        done, count = len(sequence(folds, "done")), number(folds, "count")
        return "folds" if count == done else f"{done} of {count:.0f} folds"
    return chapter.origin or ("finished" if chapter.result else "unfinished")


def _best(chapter: Chapter) -> dict[str, float | str | None]:
    """Return the known metrics of the best checkpoint, the one that is used."""
    metric = chapter.recipe.evaluate.metric
    evaluations = [row for row in chapter.rows if number(row, f"val_{metric}") is not None]
    # The first of equals, as in training.
    choose = min if task_of(chapter.recipe).metrics.get(metric, "min") == "min" else max
    row = choose(evaluations, key=lambda row: row[f"val_{metric}"], default={})
    test, validation = chapter.result.get("test"), chapter.result.get("metrics")
    accuracy, of = first("accuracy", test), "test"
    if accuracy is None:
        accuracy, of = first("accuracy", validation, {"accuracy": row.get("val_accuracy")}), "val"
    loss = first("loss", validation, {"loss": row.get("val_loss")})
    values = (number(row, "step"), chapter.now("val_loss") if loss is None else loss, accuracy)
    return dict(zip(BEST, (*values, None if accuracy is None else of), strict=True))
