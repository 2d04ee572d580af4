"""``wafergpt prepare``."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

import click

from wafergpt.cli import HomePath, emit, json_option
from wafergpt.cli.stopping import stopped_by_signals
from wafergpt.errors import InputError, Interrupted
from wafergpt.progress import duration

KEYS = ("documents", "bytes", "tokens_train", "tokens_val", "vocab_size", "fingerprint")


@click.command(
    "prepare",
    epilog="Example: wafergpt prepare 'reviews/*.jsonl' --out corpora/reviews --vocab-size 8192",
)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--out", required=True, type=HomePath(path_type=Path), help="The corpus folder to create."
)
@click.option("--vocab-size", type=int, help="Of the tokenizer to train.  [default: 8192]")
@click.option("--lowercase", is_flag=True, help="Train a tokenizer that lower-cases all text.")
@click.option(
    "--tokenizer",
    type=HomePath(),
    help="tokenizer.json, GPT-2's encoder.json + vocab.bpe, or that of a run, by its name.",
)
@click.option("--text", default="text", show_default=True, help="The text column.")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["txt", "jsonl", "csv", "tsv"]),
    help="Type of the files.  [default: by name, else by content]",
)
@click.option("--errors", type=click.Choice(["strict", "replace"]), default="strict",
              show_default=True, help="What to do with bytes that are not text.")  # fmt: skip
@click.option("--val-fraction", type=float, help="Share of documents held out.  [default: ~4 MiB]")
@click.option("--workers", type=click.IntRange(0), default=0, help="Threads.  [default: all cores]")
@json_option
def command(
    sources: tuple[str, ...],
    out: Path,
    vocab_size: int | None,
    lowercase: bool,
    tokenizer: str | None,
    text: str,
    file_format: Literal["txt", "jsonl", "csv", "tsv"] | None,
    errors: Literal["strict", "replace"],
    val_fraction: float | None,
    workers: int,
    as_json: bool,
) -> None:
    """Turn raw text into a corpus of tokens.

    SOURCE is a file (txt, jsonl, json, csv, tsv, also .gz, .xz or .bz2), a folder, or a quoted
    glob. In a folder, files with other endings are skipped unless --format is given. If
    interrupted, run the same command to resume.
    """
    from wafergpt.api import prepare
    from wafergpt.cli.next_commands import after_preparing

    start = time.perf_counter()
    try:
        with stopped_by_signals():
            corpus = prepare(
                sources, out, vocab_size=vocab_size, lowercase=lowercase,
                tokenizer=tokenizer and _of_run(tokenizer),
                text=text, file_format=file_format, errors=errors, val_fraction=val_fraction,
                workers=workers,
            )  # fmt: skip
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; run the same command to resume {out}") from None
    seconds = time.perf_counter() - start
    result = {"corpus": str(out), **{key: corpus.facts[key] for key in KEYS}, "seconds": seconds}
    lines = [
        f"{out}: {result['documents']:,} documents, {result['bytes'] / 1e6:,.1f} MB",
        f"  {result['tokens_train']:,} training tokens, {result['tokens_val']:,} validation tokens,"
        f" vocabulary {result['vocab_size']:,}",
        f"  fingerprint {result['fingerprint'][:16]}…, in {duration(seconds)}",
        f"next: {after_preparing(out, result['tokens_train'])}",
    ]
    emit(result, as_json, "\n".join(lines))


def _of_run(tokenizer: str) -> str | Path:
    """Return the folder of the run with this name, unless it is a path or there is no such run."""
    from wafergpt.runs.run import Run

    if Path(tokenizer).exists():
        return tokenizer
    with suppress(InputError):
        return Run.find(tokenizer).path
    return tokenizer
