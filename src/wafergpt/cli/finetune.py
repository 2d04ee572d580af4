"""``wafergpt finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wafergpt.cli import emit, json_option
from wafergpt.cli.recipe import (
    RecipeCommand,
    go_on_option,
    launched,
    names_and_overrides,
    nproc_option,
    planned,
    restarts_option,
    runs_option,
    show_option,
    split_arguments,
)
from wafergpt.progress import working


@click.command(
    "finetune",
    cls=RecipeCommand,
    epilog="Example: wafergpt finetune reviews task.train=train.csv task.label=sentiment name=clf",
)
@click.argument("arguments", nargs=-1, metavar="RUN|scratch [RECIPE] [KEY=VALUE]...")
@click.option("--resume", metavar="RUN", help="Go on with an interrupted fine-tuning.")
@click.option(
    "--baselines", is_flag=True, help="Train what the GPT must beat on the same rows, and compare."
)
@go_on_option
@nproc_option
@restarts_option
@show_option
@runs_option
@json_option
def command(
    arguments: tuple[str, ...],
    resume: str | None,
    baselines: bool,
    go_on: bool,
    nproc: int | None,
    restarts: int,
    show: bool,
    runs: Path,
    as_json: bool,
) -> None:
    """Teach a language model a task from labelled rows.

    RUN is a pretrained run; 'scratch' starts from fresh weights.
    """
    names, overrides = names_and_overrides(arguments, runs)
    start, *rest = names or [""]
    name, _ = split_arguments(rest, runs)
    if show:
        from wafergpt.config import load_recipe

        click.echo(load_recipe(name, overrides).to_yaml(), nl=False)
        return
    if bool(start) == bool(resume):
        raise click.UsageError("start from a RUN or from 'scratch', or go on with --resume RUN")
    if resume and go_on:
        raise click.UsageError("--resume names the run to go on with: leave out --go-on")
    follows = launched(nproc, restarts, lambda: planned(name, overrides, resume, runs))
    with working("loading torch"):
        from wafergpt.cerebras.driver import finetune

    classifier = finetune(start, name, overrides, resume=resume, go_on=go_on, root=runs)
    if follows:
        return
    run = classifier.run
    result: dict[str, Any] = run.read("result")
    if baselines:
        from wafergpt.apps.comparison import compare

        result["comparison"] = compare(classifier)
    emit(result, as_json, _text(run.name, result))


def _text(name: str, result: dict[str, Any]) -> str:
    lines = []
    for part, metrics in (("validation", result["metrics"]), ("test", result["test"])):
        if metrics:
            numbers = [f"{k} {v:.4f}" for k, v in metrics.items() if isinstance(v, float)]
            lines.append(f"{part}: " + ", ".join(numbers))
    for row in result.get("comparison", []):
        lines.append(f"{row['name']}: accuracy {row['accuracy']:.4f}, loss {row['loss']:.4f}")
    lines.append(f"next: wafergpt predict {name} --text '…'    wafergpt report {name}")
    return "\n".join(lines)
