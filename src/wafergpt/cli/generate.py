"""``wafergpt generate``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from wafergpt.cli import emit, json_option
from wafergpt.cli.recipe import runs_option


@click.command(
    "generate", epilog="Example: wafergpt generate reviews --prompt 'This film' --seed 7"
)
@click.argument("run")
@click.option("--prompt", default="", help="The text to go on from.")
@click.option("--max-tokens", type=click.IntRange(1), default=128, show_default=True)
@click.option(
    "--temperature",
    type=click.FloatRange(0, 100),
    default=0.8,
    show_default=True,
    help="0 always takes the most likely token.",
)
@click.option("--top-k", type=click.IntRange(0), default=0, help="Choose among the k likeliest.")
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1),
    default=0.95,
    show_default=True,
    help="Choose among the likeliest that reach this probability together.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option("--stop", multiple=True, help="End before this text; may be given again.")
@runs_option
@json_option
def command(
    run: str,
    prompt: str,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    stop: tuple[str, ...],
    runs: Path,
    as_json: bool,
) -> None:
    """Let a language model write on from a prompt, as it writes."""
    from wafergpt.generate.text import Sampling
    from wafergpt.run import Run
    from wafergpt.tasks.writing import Writer

    writer = Writer.load(Run.find(run, runs))
    stops = tuple(s for s in stop if s)
    settings = Sampling(max_tokens, temperature, top_k, top_p, seed, stops)
    start, pieces = time.perf_counter(), []
    drawn: list[int] = []
    for piece in writer.stream(prompt, settings, drawn):
        pieces.append(piece)
        if not as_json:
            sys.stdout.write(prompt + piece if len(pieces) == 1 else piece)
            sys.stdout.flush()
    seconds = time.perf_counter() - start
    text = "".join(pieces)
    result = {
        "text": text,
        "tokens": len(drawn),
        "seconds": seconds,
        "tokens_per_second": len(drawn) / seconds,
    }
    emit(result, as_json, "")
