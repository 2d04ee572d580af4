"""``wafergpt export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from wafergpt.cli import HomePath, emit, json_option
from wafergpt.cli.recipe import runs_option
from wafergpt.cli.stopping import stopped_by_signals
from wafergpt.cli.tables import Column, Row, plain, table
from wafergpt.logs import say
from wafergpt.progress import working

COLUMNS = [Column("", min_width=10), Column("fp32", right=True), Column("int8", right=True)]


@click.command("export", epilog="Example: wafergpt export reviews --format onnx --out reviews-onnx")
@click.argument("run")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["hf", "gguf", "onnx"]),
    default="hf",
    show_default=True,
    help="A Hugging Face folder (hf), one file for llama.cpp (gguf), or a folder for onnxruntime.",
)
@click.option(
    "--out", type=HomePath(path_type=Path), required=True, help="The folder or file to make."
)
@click.option(
    "--weights",
    type=click.Choice(["fp32", "int8"]),
    default="fp32",
    show_default=True,
    help="int8, for onnx: smaller, faster, less exact; the loss is measured.",
)
@runs_option
@json_option
def command(
    run: str,
    format_: Literal["hf", "gguf", "onnx"],
    out: Path,
    weights: Literal["fp32", "int8"],
    runs: Path,
    as_json: bool,
) -> None:
    """Export a run to transformers, llama.cpp or onnxruntime.

    The export is read back and its outputs are compared with the run's; it appears only if they are
    equal, but for llama.cpp's approximation of the GELU, which is measured. ONNX takes all tasks
    but rank. For the others a run under µP is folded into plain GPT-2.
    """
    with working("loading torch"):
        from wafergpt.api import export
        from wafergpt.interop.logit_check import TOLERANCE

    with stopped_by_signals():
        result = export(run, out, format_, runs, weights)
    for warning in result["warnings"]:
        say(f"warning: {warning}")
    on = f" on {result['compared_on']}" if "compared_on" in result else ""
    difference = result["max_relative_logit_difference"]
    are = "are the run's" if difference <= TOLERANCE else "are not quite the run's"
    words = (
        f"{out}: written, and read back by {result['compared_with']}: its logits {are}{on} "
        f"(largest difference {difference:.1e} of the largest logit)"
    )
    if weights == "fp32":
        emit(result, as_json, words)
        return
    rows = _rows(result)
    words = words.replace(": its logits", ": in fp32 its logits")
    emit(
        result,
        as_json,
        "\n".join([plain(COLUMNS, rows), "", words]),
        lambda width: [table(COLUMNS, rows, width), "", words],
    )


def _rows(result: dict[str, Any]) -> list[Row]:
    """Return what int8 changed: of fp32, and of int8."""
    from wafergpt.reports.formatting import size

    rows: list[Row] = [
        (key.replace("_", " "), f"{before:.4f}", f"{result['metrics_after'][key]:.4f}")
        for key, before in result.get("metrics_before", {}).items()
    ]
    rows.append(("size", size(result["bytes_before"]), size(result["bytes_after"])))
    if "rows" in result:
        times = [1000 * result[f"seconds_{when}"] / result["rows"] for when in ("before", "after")]
        rows.append(("time a row", *(f"{value:.2f} ms" for value in times)))
    difference = result["max_relative_difference_int8"]
    return [*rows, ("largest difference", "", f"{difference:.1e}")]
