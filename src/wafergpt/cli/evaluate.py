"""``wafergpt evaluate``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wafergpt.cli import HomePath, Names, device_option, emit, json_option
from wafergpt.cli.recipe import names_and_overrides, runs_option
from wafergpt.errors import InputError
from wafergpt.runs.run import Run

if TYPE_CHECKING:
    from rich.console import RenderableType

    from wafergpt.cli.tables import Column
    from wafergpt.reports.evaluation_tables import Part

PATH = HomePath(path_type=Path)


@click.command(
    "evaluate", epilog="Example: wafergpt evaluate reviews rows --file other.csv task.label=stars"
)
@click.argument("arguments", nargs=-1, required=True, metavar="RUN [SUITE]... [KEY=VALUE]...")
@click.option("--file", "files", type=PATH, multiple=True,
              help="Labelled rows (or texts, for a language model); repeatable.")  # fmt: skip
@click.option("--labels", type=Names(), metavar="FILE'S=RUN'S,…",
              help="Labels of --file by those of the run; others are left out.")  # fmt: skip
@click.option("--outside", type=PATH, help="Texts that are of none of the labels.")
@click.option("--cases", type=PATH, help="A YAML file of behavioural tests.")
@click.option("--against", multiple=True, metavar="RUN", help="A run to compare with; repeatable.")
@click.option("--corpus", type=PATH, multiple=True,
              help="Texts to search for contamination.  [default: what it has read]")  # fmt: skip
@click.option("--corpus-column", metavar="COLUMN", show_default="text",
              help="The text column of --corpus files that have columns.")  # fmt: skip
@click.option(
    "--kinds",
    type=Names(),
    default="",
    help="Kinds of text changes, such as typos,case.  [default: all that fit]",
)
@click.option("--tasks", type=Names(), default="", help="Names of harness tasks, comma-separated.")
@click.option("--tasks-folder", type=PATH, help="A folder of files of harness tasks.")
@click.option("--rows", type=click.IntRange(1),
              help="Rows to change for robustness (default 200), or per harness task.")  # fmt: skip
@click.option("--documents", type=click.IntRange(1), show_default="200",
              help="Documents per source to read, for a language model's loss.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), help="Of what is drawn.  [default: 0]")
@device_option
@runs_option
@json_option
def command(arguments: tuple[str, ...], runs: Path, as_json: bool, **options: Any) -> None:
    """Measure how good a run is, and where it breaks.

    Without a SUITE, all that apply: whether its probabilities are right, what typing errors do to
    it, single abilities, other domains (--file), texts of no class (--outside), what an answer
    costs; a language model's loss by source, and the harness of published results. KEY=VALUE says
    how --file is read (task.text=, task.label=). Results are kept in RUN, its page and its card.
    """
    names, overrides = names_and_overrides(arguments, runs)
    if not names:
        raise click.UsageError("name a run to evaluate")
    from wafergpt import api
    from wafergpt.reports.evaluation_tables import evaluation_parts
    from wafergpt.suites.evaluation import keeps

    labels = dict(map(_pair, options.pop("labels") or ()))
    run = Run.find(names[0], runs)
    found = api.evaluate(run, names[1:], overrides, labels=labels, root=runs, **options)
    result = {"run": str(run.path), "suites": found}
    shown = evaluation_parts(found)
    ends = [f"next: {run.command('report')}"] if keeps(run) else []
    emit(
        result,
        as_json,
        "\n".join([*map(_plain, shown), *ends]),
        lambda width: _screen(shown, ends, width),
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, label = text.partition("=")
    if not equals or not name.strip() or not label.strip():
        raise InputError(f"--labels: '{text}' is not FILE'S=RUN'S, as in 1=positive")
    return name.strip(), label.strip()


def _plain(part: Part) -> str:
    from wafergpt.cli.tables import plain

    lines = [part.title, plain(_columns(part), part.rows), *([part.note] if part.note else []), ""]
    return "\n".join(lines)


def _screen(shown: list[Part], ends: list[str], width: int) -> Iterator[RenderableType]:
    from rich.text import Text

    from wafergpt.cli.tables import table

    for part in shown:
        yield Text(part.title, style="bold")
        yield table(_columns(part), part.rows, width)
        if part.note:
            yield part.note
        yield ""
    yield from ends


def _columns(part: Part) -> list[Column]:
    """Return the columns of a table, of which the last go first where there is no room."""
    from wafergpt.cli.tables import Column

    first, *others = part.heads
    return [
        Column(first, min_width=10),
        *(Column(name, right=True, rank=max(0, place - 1)) for place, name in enumerate(others)),
    ]
