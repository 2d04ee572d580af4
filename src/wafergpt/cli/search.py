"""``wafergpt search``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from wafergpt.cli import HomePath, device_option, emit, json_line, json_option
from wafergpt.cli.recipe import runs_option
from wafergpt.errors import InputError
from wafergpt.files import require_new
from wafergpt.logs import say
from wafergpt.progress import working

if TYPE_CHECKING:
    from rich.console import RenderableType


@click.command(
    "search", epilog="Example: wafergpt search faq answers.csv 'How do I reset my password?'"
)
@click.argument("run")
@click.argument("texts", type=HomePath(path_type=Path), metavar="TEXTS")
@click.argument("queries", nargs=-1, metavar="[QUERY]...")
@click.option(
    "--file",
    type=HomePath(path_type=Path),
    help="Queries: txt (one per line), csv, tsv or jsonl.",
)
@click.option("-k", type=click.IntRange(1), default=5, show_default=True, help="Texts for each.")
@click.option(
    "--how",
    type=click.Choice(["vectors", "words", "hybrid"]),
    default="vectors",
    show_default=True,
    help="Compare meanings, words (BM25), or both.",
)
@click.option(
    "--weight",
    type=click.FloatRange(0, 1),
    help="Of the vectors in a hybrid.  [default: ranks are added up]",
)
@click.option("--column", help="The column of TEXTS.  [default: the recipe's task.positive]")
@click.option("--query-column", help="The column of --file.  [default: the recipe's task.query]")
@click.option("--out", type=HomePath(path_type=Path), help="A .jsonl to write: a line each.")
@device_option
@runs_option
@json_option
def command(
    run: str,
    texts: Path,
    queries: tuple[str, ...],
    file: Path | None,
    k: int,
    how: Literal["vectors", "words", "hybrid"],
    weight: float | None,
    column: str | None,
    query_column: str | None,
    out: Path | None,
    device: str,
    runs: Path,
    as_json: bool,
) -> None:
    """Find the texts that fit queries best, with a model that was fine-tuned for embedding.

    TEXTS is a csv, tsv, jsonl or txt file; a text is named by its row, from 0. On a terminal the
    result is a table; in a pipe it is one JSON line per query.
    """
    if bool(queries) == (file is not None):
        raise InputError("give either queries, or --file")
    if weight is not None and how != "hybrid":
        raise InputError("--weight is for --how hybrid")
    if out is not None:
        if out.suffix != ".jsonl":
            raise InputError(f"--out {out}: hits are JSON, one line a query: a .jsonl is wanted")
        require_new(out, "--out", texts, *([] if file is None else [file]))
    from wafergpt.data.labelled_rows import read_texts
    from wafergpt.runs.run import Run

    settings = _settings(Run.find(run, runs))
    with working(f"reading {texts}"):
        known = read_texts(texts, column or settings.positive)
        asked = list(queries)
        if file is not None:
            asked = read_texts(file, query_column or settings.query, option="--query-column COLUMN")
    with working("loading torch"):
        from wafergpt import atomic_files
        from wafergpt.inference.predictor import Predictor
        from wafergpt.inference.search import SearchIndex

    predictor = None if how == "words" else Predictor.load(Run.find(run, runs), device)
    found = SearchIndex(known, predictor, how, weight).search(asked, k)
    results = [
        {"query": query, "hits": [{**hit._asdict(), "text": known[hit.row]} for hit in hits]}
        for query, hits in zip(asked, found, strict=True)
    ]
    lines = "\n".join(map(json_line, results))
    if out is not None:
        atomic_files.write_text(out, lines + "\n")
        say(f"{out}: {len(results):,} quer{'y' if len(results) == 1 else 'ies'}")
    shown = "" if out is not None else lines
    if as_json or shown:
        emit({"results": results}, as_json, shown, lambda width: _screen(results, width))


def _settings(run: Any) -> Any:
    from wafergpt.tasks.embed import EmbedSettings

    task = run.recipe.task
    if not isinstance(task, EmbedSettings):
        what = "is a language model" if task is None else f"has task.name={task.name}"
        raise InputError(f"{run.path} {what}: texts are found with task.name=embed")
    return task


def _screen(results: Sequence[dict[str, Any]], width: int) -> Iterator[RenderableType]:
    from wafergpt.cli.tables import Column, table

    columns = [Column("row", right=True), Column("score", right=True, rank=1),
               Column("text", min_width=16)]  # fmt: skip
    for place, result in enumerate(results):
        if place:
            yield ""
        yield result["query"].strip() or "(blank)"
        rows = [(str(hit["row"]), f"{hit['score']:.3f}", hit["text"]) for hit in result["hits"]]
        yield table(columns, rows, width)
