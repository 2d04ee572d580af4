"""``wafergpt pretrain``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from wafergpt.cli import emit, json_option
from wafergpt.cli.recipe import (
    RecipeCommand,
    go_on_option,
    launched,
    nproc_option,
    planned,
    recipe_arguments,
    restarts_option,
    runs_option,
    show_option,
    split_arguments,
)
from wafergpt.progress import working


@click.command(
    "pretrain",
    cls=RecipeCommand,
    epilog="Example: wafergpt pretrain data.corpus=corpora/reviews train.steps=500",
)
@recipe_arguments
@click.option("--from", "start", metavar="RUN", help="Begin with the weights of a run.")
@click.option("--resume", metavar="RUN", help="Go on with an interrupted run, bit for bit.")
@go_on_option
@nproc_option
@restarts_option
@show_option
@runs_option
@json_option
def command(
    arguments: tuple[str, ...],
    start: str | None,
    resume: str | None,
    go_on: bool,
    nproc: int | None,
    restarts: int,
    show: bool,
    runs: Path,
    as_json: bool,
) -> None:
    """Train a language model on a corpus.

    RECIPE is a YAML file or the name of a shipped recipe; key=value overrides its keys. --from goes
    on with a model that was trained here or imported, on another corpus or by other settings.
    """
    name, overrides = split_arguments(arguments, runs)
    if show:
        recipe = planned(name, overrides, resume, runs)
        if start:
            from wafergpt.train.starting import language_model, on_top_of

            recipe = on_top_of(recipe, language_model(start, runs))
        click.echo(recipe.to_yaml(), nl=False)
        return
    if resume and name:
        raise click.UsageError(f"--resume goes on with the run's own recipe: leave out '{name}'")
    if resume and go_on:
        raise click.UsageError("--resume names the run to go on with: leave out --go-on")
    if resume and start:
        raise click.UsageError("--resume has its weights: leave out --from")
    follows = launched(nproc, restarts, lambda: planned(name, overrides, resume, runs))
    with working("loading torch"):
        from wafergpt.cerebras.driver import pretrain
    from wafergpt.cli.next_commands import at_work

    run = pretrain(name, overrides, start=start, resume=resume, go_on=go_on, root=runs)
    if follows:
        return
    result = run.read("result")
    emit(result, as_json, f"{run.path}: {_text(result)}\nnext: {at_work(run)}")


def _text(result: Mapping[str, Any]) -> str:
    """Say how good the best checkpoint is, and the last where that is another one."""
    step, last, best = result["step"], result["val_loss"], result["best_val_loss"]
    if best is None:
        return f"{step:,} steps, never validated"
    if best == last:
        return f"validation loss {last:.4f} at step {step:,}"
    return (
        f"best validation loss {best:.4f} at step {result['best_step']:,}; "
        f"{last:.4f} at the last step, {step:,}"
    )
