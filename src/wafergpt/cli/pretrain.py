"""``wafergpt pretrain``."""

from __future__ import annotations

from pathlib import Path

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
        from wafergpt.config import load_recipe

        click.echo(load_recipe(name, overrides).to_yaml(), nl=False)
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

    run = pretrain(name, overrides, start=start, resume=resume, go_on=go_on, root=runs)
    if follows:
        return
    result = run.read("result")
    text = (
        f"{run.path}: validation loss {result['best_val_loss']:.4f} at step {result['step']:,}\n"
        f"next: wafergpt generate {run.name} --prompt 'Once upon a time'"
    )
    emit(result, as_json, text)
