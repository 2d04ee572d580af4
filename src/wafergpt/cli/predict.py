"""``wafergpt predict``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from wafergpt.cli import emit, json_option
from wafergpt.cli.paths import HomePath
from wafergpt.cli.recipe import runs_option
from wafergpt.errors import InputError
from wafergpt.progress import say, working


@click.command(
    "predict", epilog="Example: wafergpt predict clf --text 'What a film!' --text 'Dull.'"
)
@click.argument("run")
@click.argument("stdin", required=False, metavar="[-]")
@click.option("--text", "texts", multiple=True, help="A text; may be given again.")
@click.option(
    "--file",
    "file",
    type=HomePath(path_type=Path),
    help="txt (a line a text), csv, tsv or jsonl.",
)
@click.option("--column", default=None, help="The text column of --file  [default: the recipe's]")
@runs_option
@json_option
def command(
    run: str,
    stdin: str | None,
    texts: tuple[str, ...],
    file: Path | None,
    column: str | None,
    runs: Path,
    as_json: bool,
) -> None:
    """Put a fine-tuned model to work on texts.

    With '-' it reads lines from stdin. Each text gives one JSON line, a blank text null; with
    --json all go into one object.
    """
    if stdin not in (None, "-"):
        raise InputError(f"'{stdin}' is no option; give --text, --file, or - for stdin")
    if (bool(texts) + (file is not None) + (stdin == "-")) != 1:
        raise InputError("give either --text, or --file, or - for stdin")
    from wafergpt.run import Run

    with working("loading torch"):
        from wafergpt.tasks.classify import TextClassifier

    found = Run.find(run, runs)
    if stdin == "-":
        texts = tuple(line.rstrip("\r\n") for line in sys.stdin)
    elif file is not None:
        from wafergpt.data.tables import read_texts

        task = found.recipe.task
        with working(f"reading {file}"):
            texts = tuple(read_texts(file, column or (task.text if task else "text")))
    outputs = TextClassifier.load(found).predict(texts)
    if blank := outputs.count(None):
        say(f"{blank:,} of {len(outputs):,} texts {'is' if blank == 1 else 'are'} blank: null")
    emit(
        {"outputs": outputs}, as_json, "\n".join(json.dumps(o, ensure_ascii=False) for o in outputs)
    )
