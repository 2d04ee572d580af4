"""``wafergpt prune``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from wafergpt.cli import emit, json_option
from wafergpt.cli.recipe import names_and_overrides, runs_option
from wafergpt.cli.stopping import stopped_by_signals
from wafergpt.cli.tables import Column, plain, table
from wafergpt.runs.run import Run

COLUMNS = [
    Column("", min_width=10), Column("before", right=True), Column("after", right=True),
]  # fmt: skip
RETRAINED = [
    *COLUMNS[:2], Column("pruned", right=True), Column("retrained", right=True),
]  # fmt: skip


class Share(click.ParamType):  # type: ignore[type-arg]
    """A share, as in ``0.01`` or ``1%``."""

    name = "share"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return it as a number."""
        text = str(value)
        try:
            return float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            self.fail(f"{text!r} is no share: write 0.01 or 1%", param, ctx)


class Rows(Share):
    """A share of rows, or ``used`` for all of those that are read."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return it as a number."""
        return 1.0 if value == "used" else super().convert(value, param, ctx)


@click.command(
    "prune", epilog="Example: wafergpt prune reviews --sparsity 50% --name reviews-sparse"
)
@click.argument("arguments", nargs=-1, required=True, metavar="RUN [KEY=VALUE]...")
@click.option("--name", required=True, help="Name of the new run.")
@click.option(
    "--method",
    type=click.Choice(["magnitude", "wanda", "sparsegpt"]),
    show_default="sparsegpt",
    help="How the weights are chosen.",
)
@click.option("--sparsity", type=Share(), show_default="50%",
              help="Share of zeros in the matrices of the blocks.")  # fmt: skip
@click.option("--pattern", type=click.Choice(["2:4"]), help="Two zeros of each four inputs.")
@click.option("--global", "together", is_flag=True, help="Rank all magnitudes together.")
@click.option("--samples", type=click.IntRange(1), default=128, show_default=True,
              help="Sequences or rows of the training data to measure inputs on.")  # fmt: skip
@click.option("--max-loss-increase", type=Share(), metavar="SHARE",
              help="Find the largest sparsity, up to --sparsity, that keeps to this.")  # fmt: skip
@click.option("--curves", is_flag=True,
              help="Also measure several sparsities, and each layer alone.")  # fmt: skip
@click.option("--layers", type=click.IntRange(1), help="Layers to keep.")
@click.option("--heads", type=click.IntRange(1), help="Heads to keep in each layer.")
@click.option("--channels", type=click.IntRange(1),
              help="Channels of the feed-forward to keep in each layer.")  # fmt: skip
@click.option("--width", type=click.IntRange(1),
              help="Channels of the residual stream (d_model) to keep.")  # fmt: skip
@click.option("--retrain", metavar="AMOUNT",
              help="Then train on: tokens (4M), or passes over a task's rows (1).")  # fmt: skip
@click.option("--distill", is_flag=True, help="Retrain with RUN as the teacher.")
@click.option("--rows", type=Rows(), metavar="SHARE|used",
              help="Share to keep of the n-gram rows that a task's texts read.")  # fmt: skip
@click.option("--vocabulary", is_flag=True,
              help="Take out tokens that a task's texts do not need.")  # fmt: skip
@runs_option
@json_option
def command(
    arguments: tuple[str, ...],
    name: str,
    method: Literal["magnitude", "wanda", "sparsegpt"] | None,
    sparsity: float | None,
    pattern: str | None,
    together: bool,
    samples: int,
    max_loss_increase: float | None,
    curves: bool,
    layers: int | None,
    heads: int | None,
    channels: int | None,
    width: int | None,
    retrain: str | None,
    distill: bool,
    rows: float | None,
    vocabulary: bool,
    runs: Path,
    as_json: bool,
) -> None:
    """Take weights out of a trained model, and measure what that costs.

    RUN is a language model or a task's run; overrides name its data if that has moved
    (data.corpus=, task.train=). The new run is a dense one with many zeros, smaller and faster on
    paper only; or, with --layers, --heads, --channels, --width, --rows or --vocabulary, a really
    smaller one. With --retrain it is trained on by RUN's own recipe, whose keys can be overridden
    (optimizer.lr=); an interrupted one goes on by the same command. With --max-loss-increase too,
    several are made and trained, and the smallest that keeps to it is named.
    """
    from wafergpt.api import prune
    from wafergpt.reports.pruning import before_and_after

    names, overrides = names_and_overrides(arguments, runs)
    if len(names) != 1:
        raise click.UsageError("name one run to prune")
    with stopped_by_signals():
        made = prune(
            names[0], name, overrides, method=method, sparsity=sparsity,
            pattern=pattern is not None, together=together, samples=samples,
            max_loss_increase=max_loss_increase, curves=curves, layers=layers, heads=heads,
            channels=channels, width=width, retrain=retrain, distill=distill, rows=rows,
            vocabulary=vocabulary, root=runs,
        )  # fmt: skip
    result = made.read("result")
    if "retraining" in result:
        result = {"run": result["run"], **result["retraining"]}
    columns = RETRAINED if "val_loss_retrained" in result else COLUMNS
    shown = before_and_after(result)
    words = [f"{made.path}: {_what(result)}", *_following(made, result)]
    emit(
        result,
        as_json,
        "\n".join([plain(columns, shown), "", *words]),
        lambda width: [table(columns, shown, width), "", *words],
    )


def _what(result: dict[str, Any]) -> str:
    """Return what was done."""
    from wafergpt.pruning.structured import PARTS
    from wafergpt.pruning.unstructured import NOTABLE_ZEROS
    from wafergpt.reports.pruning import left_of_tables

    parts = [tables] if (tables := left_of_tables(result)) else []
    if result["method"] == "structure":
        before, after = result["shape_before"], result["shape_after"]
        parts += [
            f"{after[key]:,} of {before[key]:,} {word}"
            for key, word in PARTS.items()
            if after[key] != before[key]
        ]
        if result["sparsity"] > NOTABLE_ZEROS:
            parts.append(f"{result['sparsity']:.1%} zeros in the blocks are left")
    elif result["method"] != "tables":
        pattern = f", {result['pattern']}" if result["pattern"] else ""
        parts.append(f"{result['sparsity']:.1%} zeros in the blocks by {result['method']}{pattern}")
    return ", ".join(parts)


def _following(made: Run, result: dict[str, Any]) -> list[str]:
    """Return the next command: a language model can be trained on with its zeros."""
    from wafergpt.cli.next_commands import at_work
    from wafergpt.pruning.unstructured import NOTABLE_ZEROS
    from wafergpt.runs.run import command_line

    lines = [f"next: {at_work(made)}"]
    if "val_loss_retrained" in result:
        others = [name for name in result.get("tried", {}) if name != made.name]
        return [*([f"also made: {', '.join(others)}"] if others else []), *lines]
    if made.recipe.task is None and made.recipe.data.corpus is not None:
        root, corpus = made.path.parent, made.recipe.data.corpus
        zeros = []
        if result["sparsity"] > NOTABLE_ZEROS:
            zeros = ["sparsity.algorithm=static", f"sparsity.sparsity={result['sparsity']:.4f}"]
        again = command_line("pretrain", "--from", made.name, f"data.corpus={corpus}", *zeros,
                             f"name={made.name}-retrained", root=root)  # fmt: skip
        lines.append(f"      {again}")
    return lines
