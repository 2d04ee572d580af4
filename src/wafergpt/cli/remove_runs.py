"""``wafergpt runs rm``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from wafergpt import files
from wafergpt.cli import emit, tables
from wafergpt.cli.tables import Cell, Column
from wafergpt.errors import InputError
from wafergpt.logs import say
from wafergpt.progress import working
from wafergpt.runs import removal
from wafergpt.runs.run import Run

COLUMNS = (Column("run", min_width=24, folds=True), Column("size", right=True))


def remove(
    names: Sequence[str], root: Path, dry_run: bool, yes: bool, force: bool, as_json: bool
) -> None:
    """Show what would be freed, ask, and remove it.

    Raises:
        InputError: if a run must stay, or nobody can be asked.
    """
    found = removal.chosen(names, root)
    removal.require_removable(found, root, force)
    with working("adding up sizes"):
        sizes = {run.path: files.tree_bytes(run.path) for run in found}
    total = sum(sizes.values())
    asks = not (yes or dry_run)
    if asks and not sys.stdin.isatty():
        raise InputError(f"{_runs(found)} would be removed: add --yes, or --dry-run to see them")
    if asks:
        click.echo(tables.plain(COLUMNS, _cells(sizes, total)), err=True)
        if not click.confirm(f"Remove {_runs(found)}?", err=True):
            say("nothing was removed")
            return
    for run in [] if dry_run else found:
        with working(f"removing {run.path}"):
            removal.remove(run)
    rows = [{"run": str(path), "bytes": size} for path, size in sizes.items()]
    text = tables.plain(COLUMNS, _cells(sizes, total))
    said = f"{'would free' if dry_run else 'freed'} {_size(total)}"
    result = {"removed": [] if dry_run else rows, "bytes": total}
    emit(result | ({"would_remove": rows} if dry_run else {}), as_json, f"{text}\n{said}")


def _runs(found: Sequence[Run]) -> str:
    return f"{len(found)} run{'s' * (len(found) != 1)}"


def _cells(sizes: dict[Path, int], total: int) -> list[tuple[str | Cell, ...]]:
    rows: list[tuple[str | Cell, ...]] = [(str(path), _size(n)) for path, n in sizes.items()]
    return [*rows, ("all", _size(total))] if len(rows) > 1 else rows


def _size(size: int) -> str:
    from wafergpt.reports.formatting import size as formatted

    return formatted(size)
