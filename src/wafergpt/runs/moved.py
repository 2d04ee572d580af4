"""Finds the files that a run was made from after a project was moved or copied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from wafergpt import files
from wafergpt.config import Recipe
from wafergpt.errors import InputError

MAX_PARTS = 16
"""Maximum number of a path's last parts that are searched for."""


def located(recipe: Recipe, folder: Path) -> Recipe:
    """Replace the paths in a recipe that do not exist any more by their new places.

    Args:
        recipe: as saved by a run.
        folder: the run's, which was moved together with the files that the recipe names.

    Returns:
        The recipe; a path whose new place is not found stays.
    """
    changes: dict[str, dict[str, Path] | Path] = {}
    corpus = recipe.data.corpus
    if corpus is not None:
        changes["data"] = {
            "corpus": now_at(corpus, folder, lambda p: _is_corpus(p, recipe.data.fingerprint))
        }
    if recipe.task is not None:
        changes["task"] = {
            key: now_at(path, folder, files.exists) for key, path in _rows(recipe).items()
        }
    if recipe.start is not None:
        changes["start"] = now_at(recipe.start, folder, _is_run)
    if recipe.train.teacher is not None:
        changes["train"] = {"teacher": now_at(recipe.train.teacher, folder, _is_run)}
    return recipe.replace(**changes) if changes else recipe


def now_at(path: Path, folder: Path, fits: Callable[[Path], bool]) -> Path:
    """Return a path, or its new place if it does not exist any more.

    That is the path that fits and has the longest common end with it: /old/project/corpora/x is
    found from /new/project/runs/y in /new/project/corpora/x.

    Args:
        path: as saved by a run.
        folder: the run's.
        fits: whether an existing path is the one searched for.

    Returns:
        The path as given if nothing is found.
    """
    parts = path.parts[-MAX_PARTS:]
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


def require_sources(recipe: Recipe, folder: Path, given: Sequence[str] = ()) -> None:
    """Require that the data which a run reads exists.

    Args:
        recipe: of the run.
        folder: the run's.
        given: overrides; what these name is not required.

    Raises:
        InputError: if it does not, with the override to add.
    """
    sources = {f"task.{key}": path for key, path in _rows(recipe).items()}
    if recipe.data.corpus is not None:
        sources["data.corpus"] = recipe.data.corpus
    if recipe.train.teacher is not None:
        sources["train.teacher"] = recipe.train.teacher
    for key, path in sources.items():
        there = files.exists(path) or files.is_pattern(path)
        if not there and not any(one.startswith(f"{key}=") for one in given):
            raise InputError(
                f"{folder} reads {path}, which is not there any more: add {key}=PATH, where it "
                "is now"
            )


def _rows(recipe: Recipe) -> dict[str, Path]:
    task = recipe.task
    named = {} if task is None else task.sources
    return {key: path for key, path in named.items() if path is not None}


def _is_run(path: Path) -> bool:
    return files.is_file(path / "recipe.yaml") or files.is_file(path / "manifest.json")


def _is_corpus(path: Path, fingerprint: str | None) -> bool:
    try:
        facts = files.read_json(path / files.CORPUS)
    except InputError:
        return False
    return isinstance(facts, dict) and fingerprint in (None, facts.get("fingerprint"))
