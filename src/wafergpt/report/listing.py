"""The runs of a folder, as rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wafergpt.errors import InputError
from wafergpt.report.chapter import Chapter
from wafergpt.report.values import first
from wafergpt.run import Run


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """Return one row for each run below ``folder``, the newest first.

    Each has name, path, kind, parameters, step, tokens, loss, val_loss, accuracy, seconds and
    state (``finished``, ``unfinished``, ``imported``, ``averaged`` or ``damaged``); what is unknown
    is None.
    """
    recipes = sorted(folder.glob("*/recipe.yaml"))
    return [_row(Run(recipe.parent)) for recipe in sorted(recipes, key=_changed, reverse=True)]


def _changed(recipe: Path) -> float:
    written = (recipe.with_name(name) for name in ("recipe.yaml", "metrics.jsonl", "result.json"))
    return max(path.stat().st_mtime for path in written if path.exists())


def _row(run: Run) -> dict[str, Any]:
    row: dict[str, Any] = {"name": run.name, "path": str(run.path)}
    numbers = ("parameters", "step", "tokens", "loss", "val_loss", "accuracy", "seconds")
    try:
        chapter = Chapter.of(run)
    except InputError as error:
        # One bad folder must not hide the others.
        empty: dict[str, None] = dict.fromkeys(("kind", *numbers))
        return row | empty | {"state": "damaged", "error": str(error)}
    judged = (chapter.result.get("test"), chapter.result.get("metrics"))
    accuracy = first("accuracy", *judged)
    return row | {
        "kind": "finetune" if chapter.recipe.task else "pretrain",
        "parameters": first("parameters", chapter.result, chapter.plan),
        **{key: chapter.now(key) for key in ("step", "tokens", "loss", "val_loss", "seconds")},
        "accuracy": chapter.now("val_accuracy") if accuracy is None else accuracy,
        "state": chapter.origin or ("finished" if chapter.result else "unfinished"),
    }
