"""``wafergpt predict``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from wafergpt.cli import HomePath, device_option, emit, json_line, json_option
from wafergpt.cli.recipe import runs_option
from wafergpt.cli.streams import shows
from wafergpt.errors import InputError
from wafergpt.progress import say, working

BLANK = "(blank)"
"""Shown in place of a text that has no letters."""

NO_ANSWER = "–"
"""Shown in place of an answer that would be too uncertain."""

WRITTEN = ("translation", "reply")
"""Keys of answers that are texts."""

if TYPE_CHECKING:
    from rich.table import Table

    from wafergpt.cli.tables import Cell


@click.command(
    "predict", epilog="Example: wafergpt predict clf --text 'What a film!' --text 'Dull.'"
)
@click.argument("run")
@click.argument("stdin", required=False, metavar="[-]")
@click.option("--text", "texts", multiple=True, help="A text; repeatable.")
@click.option(
    "--file",
    "file",
    type=HomePath(path_type=Path),
    help="txt (one text per line), csv, tsv or jsonl; to tag, also words as conll.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["txt", "jsonl", "csv", "tsv", "conll"]),
    help="Type of --file.  [default: by name, else by content]",
)
@click.option("--column", default=None, help="The text column of --file  [default: the recipe's]")
@click.option(
    "--coverage",
    type=float,
    help="Answer where a classifier is as certain as on this share of the validation rows.",
)
@device_option
@runs_option
@json_option
def command(
    run: str,
    stdin: str | None,
    texts: tuple[str, ...],
    file: Path | None,
    file_format: Literal["txt", "jsonl", "csv", "tsv", "conll"] | None,
    column: str | None,
    coverage: float | None,
    device: str,
    runs: Path,
    as_json: bool,
) -> None:
    """Predict with a fine-tuned model.

    With '-' it reads lines from stdin. On a terminal the result is a table; in a pipe it is one
    JSON line per text, null for a blank one. With --json all results are in one object.
    """
    if stdin not in (None, "-"):
        raise InputError(f"'{stdin}' is not an option; give --text, --file, or - for stdin")
    if (bool(texts) + (file is not None) + (stdin == "-")) != 1:
        raise InputError("give either --text, or --file, or - for stdin")
    from wafergpt.runs.run import Run

    with working("loading torch"):
        from wafergpt.inference.predictor import Predictor

    from wafergpt.data.labelled_rows import read_lines
    from wafergpt.tasks.base import task_of

    found = Run.find(run, runs)
    inputs: Sequence[Any] = texts
    if stdin == "-":
        inputs = texts = tuple(read_lines(sys.stdin.buffer.read(), "stdin"))
    elif file is not None and found.recipe.task is not None:
        with working(f"reading {file}"):
            inputs, shown = task_of(found.recipe).read_inputs(file, column, file_format)
        texts = tuple(shown)
    predictor = Predictor.load(found, device)
    if coverage is not None:
        predictor = predictor.with_coverage(coverage)
    outputs = predictor.predict(inputs)
    if blank := outputs.count(None):
        say(f"{blank:,} of {len(outputs):,} texts {'is' if blank == 1 else 'are'} blank: null")
    if unsure := sum("abstained" in one for one in outputs if one):
        say(f"{unsure:,} of {len(outputs):,} texts have no answer, which would be too uncertain")
    lines = "\n".join(map(json_line, outputs))
    emit({"outputs": outputs}, as_json, lines, lambda width: [_table(texts, outputs, width)])


def _table(texts: Sequence[str], outputs: Sequence[dict[str, Any] | None], width: int) -> Table:
    """Return texts beside labels and probabilities, values, entities, or what is written."""
    from wafergpt.cli.tables import Column, bar, table

    text = Column("text", min_width=16)
    if any(output and "entities" in output for output in outputs):
        return table(
            [text, Column("entities", min_width=16, folds=True)],
            [
                (t, _entities(o["entities"])) if o else (t.strip() or BLANK, "")
                for t, o in zip(texts, outputs, strict=True)
            ],
            width,
        )
    if any(output and "labels" in output for output in outputs):
        return table(
            [text, Column("labels", min_width=16, folds=True)],
            [
                (t, _several(o)) if o else (t.strip() or BLANK, "")
                for t, o in zip(texts, outputs, strict=True)
            ],
            width,
        )
    written = next((key for o in outputs for key in WRITTEN if o and key in o), "")
    if written:
        beside = Column(written, min_width=16, folds=True)
        shown = [(t.strip() or BLANK, o[written] if o else "")
                 for t, o in zip(texts, outputs, strict=True)]  # fmt: skip
        return table([Column("text", min_width=16, folds=True), beside], shown, width)
    if any(output and "label" not in output for output in outputs):
        rows = [
            (t, f"{o['value']:.4g}") if o else (t.strip() or BLANK, "")
            for t, o in zip(texts, outputs, strict=True)
        ]
        return table([text, Column("value", right=True)], rows, width)
    columns = [text, Column("label", min_width=12), Column("probability", right=True, rank=1)]
    return table(
        [*columns, Column("", rank=2)],
        [
            (
                t,
                NO_ANSWER if o["label"] is None else _label(o["label"]),
                f"{o['score']:.1%}",
                bar(o["score"]),
            )
            if o
            else (t.strip() or BLANK, "", "", "")
            for t, o in zip(texts, outputs, strict=True)
        ],
        width,
    )


def _entities(found: Sequence[dict[str, Any]]) -> Cell:
    """Return entities in one line, each with its label."""
    from wafergpt.cli.tables import Cell

    shown = ", ".join(f"{_label(one['text'])} ({_label(one['label'])})" for one in found)
    return Cell(shown or "–", "green" if found else "")


def _several(output: dict[str, Any]) -> str:
    """Return labels in one line, each with its probability."""
    found = ((name, output["scores"][name]) for name in output["labels"])
    return ", ".join(f"{_label(name)} ({score:.1%})" for name, score in found) or "–"


def _label(name: str) -> str:
    """Return a label that stays distinct even if its letters cannot be shown."""
    return name if shows(name) else ascii(name)[1:-1]
