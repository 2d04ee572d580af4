"""``wafergpt average``."""

from __future__ import annotations

from pathlib import Path

import click

from wafergpt.cli import emit, json_option
from wafergpt.cli.recipe import runs_option
from wafergpt.progress import working


@click.command("average", epilog="Example: wafergpt average reviews --last 3 --name reviews-mean")
@click.argument("run")
@click.option("--last", type=click.IntRange(2), help="The mean of so many newest checkpoints.")
@click.option(
    "--ema",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="The exponential mean of all checkpoints: what the mean keeps at each.",
)
@click.option("--name", required=True, help="Of the run to make.")
@runs_option
@json_option
def command(
    run: str, last: int | None, ema: float | None, name: str, runs: Path, as_json: bool
) -> None:
    """Make a run of the mean of a run's checkpoints.

    Train with checkpoint.keep=K to have K of them.
    """
    if (last is None) == (ema is None):
        raise click.UsageError("give either --last K or --ema SHARE")
    with working("loading torch"):
        from wafergpt.train.averaging import average
    from wafergpt.cli.next_commands import at_work
    from wafergpt.run import Run

    made = average(run, name, last=last, ema=ema, root=runs)
    result = made.read("result")
    steps = ", ".join(f"{step:,}" for step in result["steps"])
    judged = "" if result["val_loss"] is None else f": validation loss {result['val_loss']:.4f}"
    text = (
        f"{made.path}: the mean of the checkpoints at the steps {steps}{judged}\n"
        f"compare: {Run.find(run, runs).command('checkpoints')}\n"
        f"next: {at_work(made)}"
    )
    emit(result, as_json, text)
