"""``wafergpt predict``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

import click

from wafergpt.cli import emit, json_option
from wafergpt.cli.recipe import runs_option
from wafergpt.errors import InputError


@click.command(
    "predict", epilog="Example: wafergpt predict clf --text 'What a film!' --text 'Dull.'"
)
@click.argument("run")
@click.argument("stdin", required=False, metavar="[-]")
@click.option("--text", "texts", multiple=True, help="A text; may be given again.")
@click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path),
    help="txt (a line a text), csv, tsv or jsonl.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["txt", "jsonl", "csv", "tsv"]),
    help="What --file is.  [default: as its name says, else its content]",
)
@click.option("--column", default=None, help="The text column of --file  [default: the recipe's]")
@runs_option
@json_option
def command(
    run: str,
    stdin: str | None,
    texts: tuple[str, ...],
    file: Path | None,
    file_format: Literal["txt", "jsonl", "csv", "tsv"] | None,
    column: str | None,
    runs: Path,
    as_json: bool,
) -> None:
    """Put a fine-tuned model to work on texts.

    With '-' it reads lines from stdin. Each text gives one JSON line, or with --json all go into
    one object.
    """
    if stdin not in (None, "-"):
        raise InputError(f"'{stdin}' is no option; give --text, --file, or - for stdin")
    if (bool(texts) + (file is not None) + (stdin == "-")) != 1:
        raise InputError("give either --text, or --file, or - for stdin")
    from wafergpt.run import Run
    from wafergpt.tasks.classify import TextClassifier

    found = Run.find(run, runs)
    from wafergpt.data.tables import read_lines, read_texts

    if stdin == "-":
        texts = tuple(read_lines(sys.stdin.buffer.read(), "stdin"))
    elif file is not None:
        task = found.recipe.task
        texts = tuple(read_texts(file, column or (task.text if task else "text"), file_format))
    outputs = TextClassifier.load(found).predict(texts)
    emit(
        {"outputs": outputs}, as_json, "\n".join(json.dumps(o, ensure_ascii=False) for o in outputs)
    )
