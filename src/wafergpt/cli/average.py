"""``wafergpt average``."""

from __future__ import annotations

from pathlib import Path

import click

from wafergpt.cli import emit, json_option
from wafergpt.cli.recipe import runs_option
from wafergpt.cli.stopping import stopped_by_signals


@click.command("average", epilog="Example: wafergpt average reviews --last 3 --name reviews-mean")
@click.argument("run")
@click.option("--last", type=click.IntRange(2), help="Average this many newest checkpoints.")
@click.option(
    "--ema",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Exponential moving average: the share that the mean keeps at each checkpoint.",
)
@click.option("--name", required=True, help="Name of the new run.")
@runs_option
@json_option
def command(
    run: str, last: int | None, ema: float | None, name: str, runs: Path, as_json: bool
) -> None:
    """Make a run from the mean of a run's checkpoints.

    Train with checkpoint.keep=K to keep K of them.
    """
    if (last is None) == (ema is None):
        raise click.UsageError("give either --last K or --ema SHARE")
    from wafergpt.api import average
    from wafergpt.cli.next_commands import at_work
    from wafergpt.runs.run import Run

    with stopped_by_signals():
        made = average(run, name, last=last, ema=ema, root=runs)
    result = made.read("result")
    steps = ", ".join(f"{step:,}" for step in result["steps"])
    loss = "" if result["val_loss"] is None else f": validation loss {result['val_loss']:.4f}"
    text = (
        f"{made.path}: the mean of the checkpoints at steps {steps}{loss}\n"
        f"compare: {Run.find(run, runs).command('checkpoints')}\n"
        f"next: {at_work(made)}"
    )
    emit(result, as_json, text)
