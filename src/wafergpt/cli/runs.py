"""``wafergpt runs``: list runs, and verify their checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wafergpt.cli import emit, json_option, tables
from wafergpt.cli.recipe import runs_option
from wafergpt.cli.tables import Cell, Column
from wafergpt.data.tokenizer_files import SPELLING
from wafergpt.errors import InputError
from wafergpt.progress import duration, working
from wafergpt.runs.run import RUNS, SHIPPED, Run, command_line

if TYPE_CHECKING:
    from rich.console import RenderableType

COLOURS = {
    "finished": "green",
    "folds": "green",
    "shipped": "green",
    "unfinished": "yellow",
    "damaged": "red",
    "unreadable": "red",
}


@click.command(
    epilog="Example: wafergpt runs    wafergpt runs verify reviews    wafergpt runs rm 'try-*'",
    options_metavar="[FOLDER | verify RUN | rm RUN...] [OPTIONS]",
)
@click.argument("words", nargs=-1, metavar="")
@click.option("--dry-run", is_flag=True, help="With rm: show what would be freed.")
@click.option("--yes", is_flag=True, help="With rm: do not ask.")
@click.option("--force", is_flag=True, help="With rm: also what other runs started from.")
@runs_option
@json_option
def command(
    words: tuple[str, ...], runs: Path, as_json: bool, dry_run: bool, yes: bool, force: bool
) -> int:
    """List runs, the newest first, verify one, or remove some.

    Without arguments, it lists the runs in runs/; with FOLDER, those in FOLDER; and after them the
    models that come with wafergpt. 'verify RUN'
    compares every file of the run's checkpoints with its recorded hash; the exit code is 1 if one
    differs. 'rm RUN...' removes runs with all of their files, after asking; a RUN in quotes may be
    a pattern such as 'try-*'. A run that is being trained stays, and so does one that others
    started from, unless --force is given.
    """
    if words[:1] == ("rm",):
        if len(words) < 2:
            raise click.UsageError("remove which runs? wafergpt runs rm RUN...")
        from wafergpt.cli.remove_runs import remove

        remove(words[1:], runs, dry_run, yes, force, as_json)
        return 0
    if dry_run or yes or force:
        raise click.UsageError("--dry-run, --yes and --force are for 'runs rm RUN...'")
    if words[:1] == ("verify",):
        if len(words) != 2:
            raise click.UsageError("verify which run? wafergpt runs verify RUN")
        return _verify(words[1], runs, as_json)
    if len(words) > 1:
        raise click.UsageError(f"'{words[1]}' is one argument too many: give one folder of runs")
    _list(Path(words[0]) if words else runs, as_json)
    return 0


def _list(folder: Path, as_json: bool) -> None:
    from wafergpt.reports import list_runs

    if not folder.is_dir() and folder != RUNS:
        raise InputError(f"no folder {folder}: give the folder that holds the runs")
    with working(f"reading {folder}"):
        runs, shipped = list_runs(folder), list_runs(SHIPPED)
    result = {"folder": str(folder), "runs": runs, "shipped": shipped}
    rows = [*runs, *shipped]
    first = command_line("demo", root=folder)
    note = "" if runs else f"\nno runs in {folder}/ yet; to make the first: {first}"
    text = tables.plain(_columns(), map(_cells, rows)) + note
    emit(result, as_json, text, lambda width: _screen(rows, width, note))


def _verify(name: str, root: Path, as_json: bool) -> int:
    with working("loading torch"):
        from wafergpt.checkpoint import store

    run = Run.find(name, root)
    folders = [run.checkpoint] if run.checkpoint else store.every(run)
    if not folders:
        raise InputError(f"{run.path} has no checkpoint yet")
    rows = [{"checkpoint": str(f), "error": store.damage(f)} for f in folders]
    if getattr(run.recipe.task, "spelling", False) and not (run.path / SPELLING).is_file():
        rows.append({"checkpoint": str(run.path / SPELLING), "error": "missing"})
    if run.recipe.task is not None and not run.tokenizer.is_file():
        rows.append({"checkpoint": str(run.tokenizer), "error": "missing"})
    damaged = sum(row["error"] is not None for row in rows)
    lines = [f"{row['checkpoint']}: {row['error'] or 'as it was written'}" for row in rows]
    result = {"run": str(run.path), "checkpoints": rows, "damaged": damaged}
    emit(result, as_json, "\n".join(lines))
    return int(damaged > 0)


def _columns() -> list[Column]:
    """Return the columns; those of the highest rank are dropped first if there is no room."""
    return [
        Column("run", min_width=24, folds=True),
        Column("kind", rank=6),
        Column("parameters", right=True, rank=7),
        Column("step", right=True, rank=5),
        Column("tokens", right=True, rank=8),
        Column("train loss", right=True, rank=9),
        Column("val loss", right=True, rank=1),
        Column("at step", right=True, rank=4),
        Column("accuracy", right=True, rank=2),
        Column("time", right=True, rank=3),
        Column("planned", right=True, rank=10),
        Column("size", right=True, rank=6),
        Column("state"),
    ]


def _cells(run: Mapping[str, Any]) -> tuple[str | Cell, ...]:
    from wafergpt.reports import formatting as values

    accuracy = values.percent(run["accuracy"])
    if run["accuracy_of"]:
        accuracy += f" {run['accuracy_of']}"
    return (
        run["name"],
        run["kind"] or values.MISSING,
        values.count(run["parameters"]),
        values.count(run["step"]),
        values.count(run["tokens"]),
        values.loss(run["loss"]),
        values.loss(run["best_val_loss"]),
        values.count(run["best_step"]),
        accuracy,
        _duration(run["seconds"] if run["elapsed"] is None else run["elapsed"]),
        _duration(run["planned_seconds"]),
        values.size(run["bytes"]),
        Cell(run["state"], COLOURS.get(run["state"], "")),
    )


def _duration(seconds: float | None) -> str:
    from wafergpt.reports import formatting as values

    return values.MISSING if seconds is None else duration(seconds)


def _screen(
    runs: Sequence[Mapping[str, Any]], width: int, note: str = ""
) -> Iterator[RenderableType]:
    yield tables.table(_columns(), map(_cells, runs), width)
    if note:
        yield note
    half = next((run for run in runs if run["state"] == "unfinished" and run["kind"]), None)
    if half is not None:
        run = Run(Path(half["path"]))
        verb = "finetune" if half["kind"] == "finetune" else "pretrain"
        yield f"\nunfinished: {command_line(verb, '--resume', run.path)}"
    done = next((run for run in runs if run["state"] == "finished"), None)
    if done is not None:
        yield f"\nnext: {Run(Path(done['path'])).command('report')}"
