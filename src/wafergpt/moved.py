"""Where what a run was made from is now, when a project was moved or copied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from wafergpt import files
from wafergpt.config import Recipe
from wafergpt.errors import InputError

MOST_PARTS = 16
"""Of a path's end that is looked for."""


def located(recipe: Recipe, folder: Path) -> Recipe:
    """Return a recipe with paths that are not there any more replaced by where they are now.

    Args:
        recipe: as a run has written it down.
        folder: the run's, which was moved together with what it names.
    """
    changes: dict[str, dict[str, Path] | Path] = {}
    corpus = recipe.data.corpus
    if corpus is not None:
        changes["data"] = {
            "corpus": now_at(corpus, folder, lambda p: _is_corpus(p, recipe.data.fingerprint))
        }
    if recipe.task is not None:
        changes["task"] = {
            key: now_at(path, folder, files.is_file) for key, path in _rows(recipe).items()
        }
    if recipe.start is not None:
        changes["start"] = now_at(recipe.start, folder, lambda p: files.is_file(p / "recipe.yaml"))
    return recipe.replace(**changes) if changes else recipe


def now_at(path: Path, folder: Path, fits: Callable[[Path], bool]) -> Path:
    """Return a path, or what it has become if there is nothing any more.

    That is what fits and has the longest common end with it: /old/project/corpora/x is found from
    /new/project/runs/y in /new/project/corpora/x.
    """
    parts = path.parts[-MOST_PARTS:]
    if files.exists(path) or ".." in parts:
        return path
    above = folder.absolute().parents
    for first in range(len(parts)):
        if Path(parts[first]).is_absolute():
            continue
        for place in above:
            candidate = place.joinpath(*parts[first:])
            if files.exists(candidate) and fits(candidate):
                return candidate
    return path


def require_sources(recipe: Recipe, folder: Path) -> None:
    """Check that what a run goes on reading is there.

    Raises:
        InputError: if something is not; it says what to type.
    """
    sources = {f"task.{key}": path for key, path in _rows(recipe).items()}
    if recipe.data.corpus is not None:
        sources["data.corpus"] = recipe.data.corpus
    for key, path in sources.items():
        if not files.exists(path):
            raise InputError(
                f"{folder} reads {path}, which is not there any more: add {key}=PATH, where it "
                "is now"
            )


def _rows(recipe: Recipe) -> dict[str, Path]:
    task = recipe.task
    named = {} if task is None else {k: getattr(task, k) for k in ("train", "validation", "test")}
    return {key: path for key, path in named.items() if path is not None}


def _is_corpus(path: Path, fingerprint: str | None) -> bool:
    try:
        facts = files.read_json(path / "corpus.json")
    except InputError:
        return False
    return isinstance(facts, dict) and fingerprint in (None, facts.get("fingerprint"))
