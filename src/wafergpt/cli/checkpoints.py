"""``wafergpt checkpoints``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wafergpt.cli import emit, json_option
from wafergpt.cli.recipe import runs_option
from wafergpt.cli.tables import Cell, Column, plain, table
from wafergpt.errors import InputError
from wafergpt.progress import working

if TYPE_CHECKING:
    from rich.console import RenderableType

    from wafergpt.runs.run import Run

COLUMNS = (
    Column("step", right=True),
    Column("size", right=True, rank=2),
    Column("loss", right=True, rank=1),
    Column("val loss", right=True),
    Column(""),
)


@click.command("checkpoints", epilog="Example: wafergpt checkpoints reviews --compare best latest")
@click.argument("run")
@click.option(
    "--compare",
    nargs=2,
    metavar="A B",
    help="Distance of B's weights from A's; each is a step, 'best' or 'latest'.",
)
@runs_option
@json_option
def command(run: str, compare: tuple[str, str] | None, runs: Path, as_json: bool) -> None:
    """List a run's checkpoints, or compare two."""
    from wafergpt.runs.run import Run

    with working("loading torch"):
        from wafergpt.checkpoint import averaging

    found = Run.find(run, runs)
    if compare:
        result = averaging.compare(found, *compare)
        emit(result, as_json, _comparison(result))
        return
    rows = averaging.listing(found)
    if not rows:
        raise InputError(f"{found.path} has no checkpoint yet")
    cells = [_cells(row) for row in rows]
    result = {"run": str(found.path), "checkpoints": rows}
    emit(result, as_json, plain(COLUMNS, cells), lambda width: _screen(found, cells, width))


def _cells(row: Mapping[str, Any]) -> tuple[str | Cell, ...]:
    from wafergpt.reports import formatting as values

    marks = " ".join(mark for mark in ("best", "latest") if row[mark])
    size = f"{row['bytes'] / 1e6:,.1f} MB"
    losses = (values.loss(row["loss"]), values.loss(row["val_loss"]))
    return (f"{row['step']:,}", size, *losses, Cell(marks, "green" if row["best"] else ""))


def _screen(
    run: Run, cells: Sequence[tuple[str | Cell, ...]], width: int
) -> Iterator[RenderableType]:
    yield table(COLUMNS, cells, width)
    if len(cells) > 1:
        first = str(cells[0][0]).replace(",", "")
        yield f"\nnext: {run.command('checkpoints', '--compare', first, 'latest')}"


def _comparison(result: Mapping[str, Any]) -> str:
    from wafergpt.reports import formatting
    from wafergpt.shapes.roles import MEANING

    first, second = result["first"], result["second"]
    lines = [
        f"step {first['step']:,} → {second['step']:,}, validation loss "
        f"{formatting.loss(first['val_loss'])} → {formatting.loss(second['val_loss'])}",
        "distance of the weights, relative to their norm before:",
    ]
    for role, distance in result["distance"].items():
        shown = formatting.MISSING if distance is None else f"{distance:.4f}"
        lines.append(f"  {shown:>8}  {MEANING[role]}")
    return "\n".join(lines)
