"""``wafergpt pretrain``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from wafergpt.cli import emit, json_option
from wafergpt.cli.recipe import (
    RecipeCommand,
    auto_resume_option,
    launched,
    nproc_option,
    planned,
    recipe_arguments,
    restarts_option,
    resumed,
    runs_option,
    show_option,
    split_arguments,
)
from wafergpt.config import load_recipe


@click.command(
    "pretrain",
    cls=RecipeCommand,
    epilog="Example: wafergpt pretrain data.corpus=corpora/reviews train.steps=500",
)
@recipe_arguments
@click.option("--from", "start", metavar="RUN", help="Initialize from the weights of a run.")
@click.option("--resume", metavar="RUN", help="Resume an interrupted run, bit for bit.")
@auto_resume_option
@nproc_option
@restarts_option
@show_option
@runs_option
@json_option
def command(
    arguments: tuple[str, ...],
    start: str | None,
    resume: str | None,
    auto_resume: bool,
    nproc: int | None,
    restarts: int,
    show: bool,
    runs: Path,
    as_json: bool,
) -> None:
    """Train a language model on a corpus.

    RECIPE is a YAML file or the name of a shipped recipe; key=value overrides its keys. --from
    continues from a trained or imported model, on another corpus or with other settings.
    """
    name, overrides = split_arguments(arguments, runs)
    if resume and name:
        raise click.UsageError(f"--resume uses the run's own recipe: omit '{name}'")
    if resume and auto_resume:
        raise click.UsageError("--resume names the run to resume: omit --auto-resume")
    if resume and start:
        raise click.UsageError("--resume uses the run's own weights: omit --from")
    if show:
        recipe = resumed(overrides, resume, runs) if resume else load_recipe(name, overrides)
        if start:
            from wafergpt.train.resume import language_model, on_top_of

            recipe = on_top_of(recipe, language_model(start, runs))
        click.echo(recipe.to_yaml(), nl=False)
        return
    is_worker = launched(nproc, restarts, lambda: planned(name, overrides, resume, runs))
    from wafergpt.api import pretrain
    from wafergpt.cli.next_commands import at_work

    run = pretrain(name, overrides, start=start, resume=resume, auto_resume=auto_resume, root=runs)
    if is_worker:
        return
    result = run.read("result")
    emit(result, as_json, f"{run.path}: {_text(result)}\nnext: {at_work(run)}")


def _text(result: Mapping[str, Any]) -> str:
    """Return the loss of the best checkpoint, and of the last one if it differs."""
    step, last, best = result["step"], result["val_loss"], result["best_val_loss"]
    if best is None:
        return f"{step:,} steps, never validated"
    if best == last:
        return f"validation loss {last:.4f} at step {step:,}"
    return (
        f"best validation loss {best:.4f} at step {result['best_step']:,}; "
        f"{last:.4f} at the last step, {step:,}"
    )
