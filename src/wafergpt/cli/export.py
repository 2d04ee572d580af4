"""``wafergpt export``."""

from __future__ import annotations

from pathlib import Path

import click

from wafergpt.cli import HomePath, emit, json_option
from wafergpt.cli.recipe import runs_option
from wafergpt.progress import say, working


@click.command("export", epilog="Example: wafergpt export reviews --format hf --out reviews-hf")
@click.argument("run")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["hf", "gguf"]),
    default="hf",
    show_default=True,
    help="A Hugging Face folder (hf), or one file for llama.cpp (gguf).",
)
@click.option(
    "--out", type=HomePath(path_type=Path), required=True, help="The folder or file to make."
)
@runs_option
@json_option
def command(run: str, format_: str, out: Path, runs: Path, as_json: bool) -> None:
    """Export a run to transformers or llama.cpp.

    A run under µP is folded into plain GPT-2. The export is read back and its logits compared with
    the run's; it appears only if they are equal.
    """
    with working("loading torch"):
        from wafergpt.interop.export import export

    result = export(run, out, "gguf" if format_ == "gguf" else "hf", runs)
    for warning in result["warnings"]:
        say(f"warning: {warning}")
    emit(
        result,
        as_json,
        f"{out}: written, and read back by {result['compared_with']}: its logits are the run's "
        f"(largest difference {result['max_relative_logit_difference']:.1e} of the largest logit)",
    )
