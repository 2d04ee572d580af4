"""``wafergpt runs``: what was trained here, and whether it is still what was written."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from wafergpt.cli import emit, json_option
from wafergpt.cli.recipe import runs_option
from wafergpt.errors import InputError
from wafergpt.progress import duration, working
from wafergpt.run import RUNS, Run

HEAD = ("run", "kind", "parameters", "step", "tokens", "loss", "val loss", "accuracy", "time")


@click.command(
    epilog="Example: wafergpt runs    wafergpt runs verify reviews",
    options_metavar="[FOLDER | verify RUN] [OPTIONS]",
)
@click.argument("words", nargs=-1, metavar="")
@runs_option
@json_option
def command(words: tuple[str, ...], runs: Path, as_json: bool) -> int:
    """List runs, the newest first, or verify one.

    Without a word, the runs of runs/; with FOLDER, of that one. 'verify RUN' compares every file of
    the run's checkpoints with the hashes it was written with, and exits with 1 if one differs.
    """
    if words[:1] == ("verify",):
        if len(words) != 2:
            raise click.UsageError("verify which run? wafergpt runs verify RUN")
        return _verify(words[1], runs, as_json)
    if len(words) > 1:
        raise click.UsageError(f"'{words[1]}' is one word too many: give one folder of runs")
    _list(Path(words[0]) if words else runs, as_json)
    return 0


def _list(folder: Path, as_json: bool) -> None:
    from wafergpt.report import list_runs

    if not folder.is_dir() and folder != RUNS:
        raise InputError(f"no folder {folder}: give the folder that holds the runs")
    with working(f"reading {folder}"):
        runs = list_runs(folder)
    result = {"folder": str(folder), "runs": runs}
    if not runs:
        emit(result, as_json, f"no runs in {folder}/ yet; to make the first: wafergpt demo")
    elif sys.stdout.isatty() and not as_json:
        _print_rich(runs)
    else:
        emit(result, as_json, _plain([(*HEAD, "state"), *map(_cells, runs)]))


def _verify(name: str, root: Path, as_json: bool) -> int:
    with working("loading torch"):
        from wafergpt.train import checkpoint

    run = Run.find(name, root)
    folders = [run.checkpoint] if run.checkpoint else checkpoint.every(run)
    if not folders:
        raise InputError(f"{run.path} has no checkpoint yet")
    rows = [{"checkpoint": str(f), "error": checkpoint.damage(f)} for f in folders]
    damaged = sum(row["error"] is not None for row in rows)
    lines = [f"{row['checkpoint']}: {row['error'] or 'as it was written'}" for row in rows]
    result = {"run": str(run.path), "checkpoints": rows, "damaged": damaged}
    emit(result, as_json, "\n".join(lines))
    return int(damaged > 0)


def _cells(run: Mapping[str, Any]) -> tuple[str, ...]:
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
