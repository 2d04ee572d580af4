"""Removing runs: which ones, what speaks against it, and the removal itself."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from wafergpt import atomic_files, files
from wafergpt.errors import InputError
from wafergpt.logs import say
from wafergpt.runs.holding import LOCK
from wafergpt.runs.run import Run

TRASH = ".trash-"
"""What the name of a run starts with while its files are deleted."""

NAMED = 3
"""Runs that a message names."""


def chosen(names: Sequence[str], root: Path) -> list[Run]:
    """Return the runs that names, paths and patterns stand for, each once.

    Args:
        names: of runs; one with ``*``, ``?`` or ``[`` is a pattern of names in ``root``.
        root: the folder that holds runs.

    Returns:
        The runs; none is inside another one.

    Raises:
        InputError: if a name is that of no run, of a part of one, of a link, or of one that comes
            with the package; or a pattern fits none.
    """
    found: dict[Path, Run] = {}
    for name in names:
        for run in _matching(name, root) or [_named(name, root)]:
            if run.path.is_symlink():
                raise InputError(
                    f"{run.path} is a link: remove the link itself, or name its target"
                )
            found.setdefault(run.path.resolve(), run)
    return [run for path, run in found.items() if not found.keys() & {*path.parents}]


def _matching(pattern: str, root: Path) -> list[Run]:
    """Return the runs that a pattern fits; none if it is no pattern."""
    if not set(pattern) & set("*?[") or files.exists(root / pattern):
        return []
    parts = Path(pattern).parts
    if Path(pattern).is_absolute() or ".." in parts:
        raise InputError(f"'{pattern}': a pattern is of names in {root}/; --runs names the folder")
    fits = [p for p in sorted(root.glob(pattern)) if not p.name.startswith(".")]
    runs = [Run(path) for path in fits if files.is_file(path / "recipe.yaml")]
    for link in [run for run in runs if run.path.is_symlink()]:
        say(f"{link.path} is a link, and stays")
        runs.remove(link)
    if not runs:
        raise InputError(f"no run in {root}/ fits '{pattern}'")
    return runs


def _named(name: str, root: Path) -> Run:
    run, path = Run.find(name, root), files.from_home(name)
    if run.shipped:
        raise InputError(f"{run.name} comes with wafergpt, and stays")
    if run.checkpoint or run.path not in (path, root / path):
        raise InputError(f"{name} is a part of {run.path}: name the whole run")
    return run


def require_removable(runs: Sequence[Run], root: Path, force: bool = False) -> None:
    """Require that no process trains in these runs, and that no other run needs one of them.

    Args:
        runs: to be removed together.
        root: the folder that holds runs.
        force: do not ask for the second.

    Raises:
        InputError: naming the first that stays.
    """
    for run in runs:
        with _unused(run):
            pass
    if force:
        return
    gone = {run.path.resolve() for run in runs}
    folders = {root.resolve(), *(path.parent for path in gone)}
    needed = [(one, other) for other in _others(folders, gone) for one in _needed_by(other)]
    for run in runs:
        path = run.path.resolve()
        by = sorted({o.name for one, o in needed if path == one or path in one.parents})
        if by:
            more = f" and {len(by) - NAMED} more" if len(by) > NAMED else ""
            raise InputError(
                f"{run.path} is the start or the teacher of {', '.join(by[:NAMED])}{more}: "
                "remove these too, or add --force"
            )


def _others(folders: set[Path], gone: set[Path]) -> Iterator[Run]:
    """Yield the runs of folders, and those inside runs, that are not to be removed."""
    for folder in sorted(folders):
        for recipe in [*folder.glob("*/recipe.yaml"), *folder.glob("*/*/recipe.yaml")]:
            path = recipe.parent
            if any(part.startswith(".") for part in path.relative_to(folder).parts):
                # What a removal or a training that was killed has left.
                continue
            if not gone & {path, *path.parents}:
                yield Run(path)


def _needed_by(run: Run) -> list[Path]:
    try:
        recipe = run.recipe
    except (InputError, OSError):
        # What a damaged recipe names is not known.
        return []
    return [path.resolve() for path in (recipe.start, recipe.train.teacher) if path is not None]


@contextmanager
def _unused(run: Run) -> Iterator[None]:
    """Hold a run and those inside it.

    Raises:
        InputError: if a process trains in one.
    """
    with ExitStack() as stack:
        for lock in sorted([*run.path.glob(LOCK), *run.path.glob(f"*/{LOCK}")]):
            stack.enter_context(Run(lock.parent).held())
        yield


def remove(run: Run) -> None:
    """Remove a run with all of its files; at no time is a part of it there under its name.

    What an earlier removal that was killed has left beside it is deleted too.

    Args:
        run: the run.

    Raises:
        InputError: if a process trains in it.
        OSError: if a file cannot be deleted.
    """
    path = run.path.resolve()
    trash = path.with_name(f"{TRASH}{path.name}-{uuid.uuid4().hex[:8]}")
    for left in path.parent.glob(f"{TRASH}*"):
        shutil.rmtree(left, ignore_errors=True)
    with _unused(run):
        path.rename(trash)
    atomic_files.sync(path.parent)
    shutil.rmtree(trash)
