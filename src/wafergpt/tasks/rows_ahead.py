"""Rows that were read to choose settings by, until the training takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wafergpt.data.row_sources import row_files

if TYPE_CHECKING:
    from wafergpt.tasks.labelled_task import LabelledTask

_kept: dict[str, Any] = {}


def keep(task: LabelledTask[Any], tables: Any) -> None:
    """Keep the rows of a task, and no other ones."""
    source = _source(task)
    _kept.clear()
    _kept[source] = tables


def take(task: LabelledTask[Any]) -> Any:
    """Return the rows of a task if they are kept, which they then are no more; else None."""
    return _kept.pop(_source(task), None) if _kept else None


def _source(task: LabelledTask[Any]) -> str:
    """Return what the rows depend on: settings, and the files as they are now."""
    settings = task.settings
    read = settings.model_dump_json(exclude=set(task.chosen))
    paths = [path for some in row_files(settings.sources).values() for path in some]
    found = [(str(path), path.stat()) for path in paths if path.exists()]
    written = [(name, stat.st_mtime_ns, stat.st_size) for name, stat in found]
    return f"{type(task).__name__} {task.recipe.data.fingerprint} {written} {read}"
