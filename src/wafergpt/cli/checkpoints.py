"""``wafergpt checkpoints``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from wafergpt.cli import emit, json_option
from wafergpt.cli.recipe import runs_option
from wafergpt.errors import InputError
from wafergpt.progress import working

HEAD = ("step", "size", "loss", "val loss", "")


@click.command("checkpoints", epilog="Example: wafergpt checkpoints reviews --compare best latest")
@click.argument("run")
@click.option(
    "--compare",
    nargs=2,
    metavar="A B",
    help="How far B's weights are from A's; each is a step, 'best' or 'latest'.",
)
@runs_option
@json_option
def command(run: str, compare: tuple[str, str] | None, runs: Path, as_json: bool) -> None:
    """List a run's checkpoints, or compare two."""
    from wafergpt.run import Run

    with working("loading torch"):
        from wafergpt.train import averaging

    found = Run.find(run, runs)
    if compare:
        result = averaging.compare(found, *compare)
        emit(result, as_json, _comparison(result))
        return
    rows = averaging.listing(found)
    if not rows:
        raise InputError(f"{found.path} has no checkpoint yet")
    emit({"run": str(found.path), "checkpoints": rows}, as_json, _table(rows))


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    from wafergpt.report import values

    cells = [HEAD]
    for row in rows:
        marks = " ".join(mark for mark in ("best", "latest") if row[mark])
        size = f"{row['bytes'] / 1e6:,.1f} MB"
        losses = (values.loss(row["loss"]), values.loss(row["val_loss"]))
        cells.append((f"{row['step']:,}", size, *losses, marks))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:>{width}}" for cell, width in zip(line[:-1], widths, strict=False))
        + f"  {line[-1]}".rstrip()
        for line in cells
    )


def _comparison(result: Mapping[str, Any]) -> str:
    from wafergpt.report import values
    from wafergpt.shapes.parametrization import MEANING

    first, second = result["first"], result["second"]
    lines = [
        f"step {first['step']:,} → {second['step']:,}, validation loss "
        f"{values.loss(first['val_loss'])} → {values.loss(second['val_loss'])}",
        "distance of the weights, of their norm before:",
    ]
    for role, distance in result["distance"].items():
        shown = values.MISSING if distance is None else f"{distance:.4f}"
        lines.append(f"  {shown:>8}  {MEANING[role]}")
    return "\n".join(lines)
