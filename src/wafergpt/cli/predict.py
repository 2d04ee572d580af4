"""``wafergpt predict``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from wafergpt.cli import HomePath, device_option, emit, json_line, json_option
from wafergpt.cli.recipe import runs_option
from wafergpt.data.table_writing import table_kind
from wafergpt.errors import InputError
from wafergpt.files import from_home, is_file, many
from wafergpt.logs import say
from wafergpt.progress import working

if TYPE_CHECKING:
    from rich.console import RenderableType

    from wafergpt.inference.predictor import Predictor

SHOWN = 5
"""Words that are read as others, which are said."""


@click.command(
    "predict", epilog="Example: wafergpt predict clf --text 'What a film!' --text 'Dull.'"
)
@click.argument("run")
@click.argument("given", required=False, metavar="[FILE|-]")
@click.option("--text", "texts", multiple=True, help="A text; repeatable.")
@click.option(
    "--file",
    "file",
    type=HomePath(path_type=Path),
    help="As FILE: txt (one text per line), csv, tsv, jsonl, xlsx or Parquet; to tag, also conll.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["txt", "jsonl", "csv", "tsv", "conll"]),
    help="Type of FILE.  [default: by name, else by content]",
)
@click.option("--column", default=None, help="The text column of FILE.  [default: the recipe's]")
@click.option(
    "--out",
    type=HomePath(dir_okay=False, path_type=Path),
    help="A .csv, .tsv or .jsonl to write: FILE with all of its columns, and new ones.",
)
@click.option("--prefix", default="predicted", show_default=True, help="Of the new columns' names.")
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
    given: str | None,
    texts: tuple[str, ...],
    file: Path | None,
    file_format: Literal["txt", "jsonl", "csv", "tsv", "conll"] | None,
    column: str | None,
    out: Path | None,
    prefix: str,
    coverage: float | None,
    device: str,
    runs: Path,
    as_json: bool,
) -> None:
    """Predict with a fine-tuned model.

    With '-' it reads lines from stdin. On a terminal the result is a table; in a pipe it is one
    JSON line per text, null for a blank one. With --json all results are in one object.

    With --out it reads FILE of any size part by part, and writes it with its columns and the
    answers. If it is interrupted, the same command goes on.
    """
    if given is not None and given != "-":
        if file is not None or not is_file(from_home(given)):
            raise InputError(f"'{given}' is no file; give --text, a FILE, or - for stdin")
        file, given = from_home(given), None
    if (bool(texts) + (file is not None) + (given == "-")) != 1:
        raise InputError("give either --text, or a FILE, or - for stdin")
    if file is None and (column is not None or file_format not in (None, "txt")):
        raise InputError("--column and --format are for a FILE: '-' reads a text from each line")
    if out is not None:
        if file is None:
            raise InputError("--out is for the rows of a FILE")
        table_kind(out)
    from wafergpt.runs.run import Run

    with working("loading torch"):
        from wafergpt.inference.predictor import Predictor

    from wafergpt.data.labelled_rows import read_lines
    from wafergpt.tasks.base import task_of

    found = Run.find(run, runs)

    def predictor() -> Predictor:
        loaded = Predictor.load(found, device)
        return loaded if coverage is None else loaded.with_coverage(coverage)

    if out is not None and file is not None:
        result = predictor().predict_file(file, out, column, file_format, prefix)
        emit(result, as_json, _said(result))
        return
    inputs: Sequence[Any] = texts
    if given == "-":
        inputs = texts = tuple(read_lines(sys.stdin.buffer.read(), "stdin"))
    elif file is not None and found.recipe.task is not None:
        with working(f"reading {file}"):
            inputs, shown = task_of(found.recipe).read_inputs(file, column, file_format)
        texts = tuple(shown)
    loaded = predictor()
    outputs = loaded.predict(inputs)
    if blank := outputs.count(None):
        say(f"{blank:,} of {len(outputs):,} texts {'is' if blank == 1 else 'are'} blank: null")
    if unsure := sum("abstained" in one for one in outputs if one):
        say(f"{unsure:,} of {len(outputs):,} texts have no answer, which would be too uncertain")
    if getattr(found.recipe.task, "spelling", False):
        _say_changes(loaded, texts)
    lines = "\n".join(map(json_line, outputs))
    emit({"outputs": outputs}, as_json, lines, lambda width: [_screen(texts, outputs, width)])


def _said(result: dict[str, Any]) -> str:
    """Return what was written, and how fast."""
    blank = f" ({result['blank']:,} blank)" if result["blank"] else ""
    rate = (result["rows"] - result["before"]) / max(result["seconds"], 1e-9)
    rows = many(result["rows"], "row")
    return f"{result['out']}: {rows}{blank}, {rate:,.{0 if rate >= 10 else 1}f} rows/s"


def _say_changes(predictor: Predictor, texts: Sequence[str]) -> None:
    """Say the words that are read as others, some of them."""
    spelling = predictor.tokenizer.spelling
    assert spelling is not None
    found = dict(pair for text in texts for pair in spelling.changes(text))
    if found:
        some = ", ".join(f"{word} as {read}" for word, read in islice(found.items(), SHOWN))
        more = f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
        say(f"read as other words (task.spelling): {some}{more}")


def _screen(
    texts: Sequence[str], outputs: Sequence[dict[str, Any] | None], width: int
) -> RenderableType:
    from wafergpt.cli.answers import answers_table

    return answers_table(texts, outputs, width)
