"""``wafergpt runs``: what was trained here."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from wafergpt.cli import emit, json_option
from wafergpt.errors import InputError

HEAD = ("run", "kind", "parameters", "step", "tokens", "loss", "val loss", "accuracy", "time")


@click.command(epilog="Example: wafergpt runs")
@click.argument("folder", type=click.Path(path_type=Path), default="runs")
@json_option
def command(folder: Path, as_json: bool) -> None:
    """List the runs of FOLDER (runs/ if left out), the newest first."""
    from wafergpt.report import list_runs

    if not folder.is_dir() and folder != Path("runs"):
        raise InputError(f"no folder {folder}: give the folder that holds the runs")
    runs = list_runs(folder)
    result = {"folder": str(folder), "runs": runs}
    if not runs:
        emit(result, as_json, f"no runs in {folder}/ yet; to make the first: wafergpt demo")
    elif sys.stdout.isatty() and not as_json:
        _print_rich(runs)
    else:
        emit(result, as_json, _plain([(*HEAD, "state"), *map(_cells, runs)]))


def _cells(run: Mapping[str, Any]) -> tuple[str, ...]:
    from wafergpt.progress import duration
    from wafergpt.report import values

    # A folder's name may hold what would steer a terminal.
    name = "".join(letter if letter.isprintable() else "�" for letter in run["name"])
    return (
        name,
        run["kind"] or values.MISSING,
        values.count(run["parameters"]),
        values.count(run["step"]),
        values.count(run["tokens"]),
        values.loss(run["loss"]),
        values.loss(run["val_loss"]),
        values.percent(run["accuracy"]),
        values.MISSING if run["seconds"] is None else duration(run["seconds"]),
        run["state"],
    )


def _plain(rows: Sequence[Sequence[str]]) -> str:
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padded = []
        for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - cell_len(cell))
            padded.append(space + cell if 2 <= index < len(HEAD) else cell + space)
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _print_rich(runs: Sequence[Mapping[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"finished": "green", "unfinished": "yellow", "damaged": "red"}
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for index, name in enumerate((*HEAD, "state")):
        right = 2 <= index < len(HEAD)
        grid.add_column(name, justify="right" if right else "left", overflow="fold")
    for run in runs:
        *cells, state = _cells(run)
        grid.add_row(*map(Text, cells), Text(state, style=colours[state]))
    Console().print(grid)
