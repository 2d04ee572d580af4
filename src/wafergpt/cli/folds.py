"""``wafergpt finetune --folds``: cross-validation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wafergpt.cli import emit
from wafergpt.cli.tables import Column, plain, table
from wafergpt.runs.run import Run

if TYPE_CHECKING:
    from rich.console import RenderableType

NOT_WITH_FOLDS = ("baselines", "auto_resume", "resume", "nproc", "restarts", "show")
NOT_WITH_REFIT = ("baselines", "resume", "nproc", "restarts", "show")


def require_alone(given: Mapping[str, Any]) -> None:
    """Refuse options that have no meaning with folds, or with two trainings.

    Args:
        given: the values of all options of ``finetune``.

    Raises:
        UsageError: naming the first one.
    """
    several = "--folds" if given["folds"] else "--refit"
    if not (given["folds"] or given["refit"]):
        return
    for name in NOT_WITH_FOLDS if given["folds"] else NOT_WITH_REFIT:
        if given[name]:
            why = "the same command goes on by itself: " if "resume" in name else ""
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{option} does not go with {several}: {why}omit it")


def cross_validate(
    start: str,
    recipe: str | None,
    overrides: Sequence[str],
    folds: int,
    refit: bool,
    runs: Path,
    as_json: bool,
) -> None:
    """Make the folds, and print their table."""
    from wafergpt import api

    run = api.cross_validate(start, recipe, overrides, folds=folds, refit=refit, root=runs)
    result = {**run.read("result"), "test": None}
    if result["refit"]:
        result["test"] = Run(Path(result["refit"])).read("result")["test"]
    emit(result, as_json, _text(run, result), lambda width: _screen(run, result, width))


def _columns(result: dict[str, Any]) -> tuple[list[Column], list[tuple[str, ...]]]:
    from wafergpt.reports.folds import fold_table

    heads, rows = fold_table(result)
    columns = [Column(name.lower(), right=place > 0) for place, name in enumerate(heads)]
    return columns, rows


def _text(run: Run, result: dict[str, Any]) -> str:
    return "\n".join([plain(*_columns(result)), *_after(run, result)])


def _screen(run: Run, result: dict[str, Any], width: int) -> Iterable[RenderableType]:
    yield table(*_columns(result), width)
    yield from _after(run, result)


def _after(run: Run, result: dict[str, Any]) -> list[str]:
    """Return the lines below the table: the test, and what to do next."""
    from wafergpt.cli.next_commands import at_work

    lines = [""]
    if result["test"]:
        numbers = [f"{k.replace('_', ' ')} {v:.4f}" for k, v in result["test"].items()
                   if isinstance(v, float)]  # fmt: skip
        lines.append(f"test: {', '.join(numbers)}")
    report = run.command("report")
    if result["refit"]:
        return [*lines, f"next: {at_work(Run(Path(result['refit'])))}", f"      {report}"]
    return [*lines, f"next: {report}"]
