"""``wafergpt generate``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from wafergpt.cli import device_option, emit, json_option
from wafergpt.cli.recipe import runs_option
from wafergpt.logs import say
from wafergpt.progress import working

if TYPE_CHECKING:
    from wafergpt.inference.writer import Writer


@click.command(
    "generate", epilog="Example: wafergpt generate reviews --prompt 'This film' --seed 7"
)
@click.argument("run")
@click.option("--prompt", default="", help="The text to continue.")
@click.option("--max-tokens", type=click.IntRange(1), default=128, show_default=True)
@click.option(
    "--temperature",
    type=click.FloatRange(0, 100),
    default=0.8,
    show_default=True,
    help="Sampling temperature; 0 always takes the most likely token.",
)
@click.option("--top-k", type=click.IntRange(0), default=0, help="Choose among k tokens; 0: all.")
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1),
    default=0.95,
    show_default=True,
    help="Choose among the likeliest tokens that together reach this probability.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option("--stop", multiple=True, help="Stop before this text; repeatable.")
@click.option(
    "--weights",
    type=click.Choice(["fp32", "bf16", "int8"]),
    default="fp32",
    show_default=True,
    help="bf16, or on a CPU int8: faster, less exact.",
)
@device_option
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
    weights: Literal["fp32", "bf16", "int8"],
    device: str,
    runs: Path,
    as_json: bool,
) -> None:
    """Continue a prompt with a language model, and print the text as it is generated."""
    from wafergpt.runs.run import Run

    with working("loading torch"):
        from wafergpt.decoding.generator import Sampling
        from wafergpt.inference.writer import Writer

    writer = Writer.load(Run.find(run, runs), device, weights)
    stops = tuple(s for s in stop if s)
    settings = Sampling(max_tokens, temperature, top_k, top_p, seed, stops)
    _warn_of_a_long_prompt(writer, prompt)
    start, pieces = time.perf_counter(), []
    if not as_json:
        print(prompt, end="", flush=True)
    stream = writer.stream(prompt, settings)
    for piece in stream:
        pieces.append(piece)
        if not as_json:
            print(piece, end="", flush=True)
    seconds = time.perf_counter() - start
    text = "".join(pieces)
    result = {
        "text": text,
        "tokens": len(stream.drawn),
        "cut": stream.cut,
        "weights": weights,
        "seconds": seconds,
        "tokens_per_second": len(stream.drawn) / seconds,
    }
    emit(result, as_json, "")
    if stream.cut:
        say(f"… cut at {max_tokens:,} tokens: --max-tokens {2 * max_tokens} generates more")


def _warn_of_a_long_prompt(writer: Writer, prompt: str) -> None:
    tokens, context = len(writer.tokenizer.encode(prompt)), writer.gpt.config.seq_len
    if tokens > context:
        say(
            f"warning: the prompt has {tokens:,} tokens and the model's context {context:,}: only "
            "the last ones are read"
        )
