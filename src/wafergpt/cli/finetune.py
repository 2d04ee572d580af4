"""``wafergpt finetune``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wafergpt.cli import emit, json_option
from wafergpt.cli.compared import cells, columns, failures
from wafergpt.cli.folds import cross_validate, require_alone
from wafergpt.cli.recipe import (
    RecipeCommand,
    auto_resume_option,
    launched,
    names_and_overrides,
    nproc_option,
    planned,
    restarts_option,
    resumed,
    runs_option,
    show_option,
    split_arguments,
)
from wafergpt.cli.tables import plain, table
from wafergpt.config import Recipe, load_recipe
from wafergpt.distributed.launcher import LAUNCHED
from wafergpt.logs import is_worker, place
from wafergpt.runs.run import Run

if TYPE_CHECKING:
    from rich.console import RenderableType

SCORES = {"accuracy": "accuracy", "macro f1": "macro_f1", "loss": "loss"}
"""Names for people, and keys of a comparison's rows."""


@click.command(
    "finetune",
    cls=RecipeCommand,
    epilog="Example: wafergpt finetune reviews task.train=train.csv task.label=sentiment name=clf",
)
@click.argument("arguments", nargs=-1, metavar="RUN|scratch [RECIPE] [KEY=VALUE]...")
@click.option("--resume", metavar="RUN", help="Resume an interrupted fine-tuning, bit for bit.")
@click.option(
    "--baselines", is_flag=True, help="Also train baselines on the same rows, and compare."
)
@click.option(
    "--folds",
    type=click.IntRange(2, 1000),
    metavar="N",
    help="Cross-validate: train N times, each without one part of the rows, and evaluate on it.",
)
@click.option(
    "--refit/--no-refit",
    default=None,
    help="Train twice: without the held-out rows (or after --folds), then on all rows. Without a "
    "RECIPE it is so for up to 1,000 rows with task.test beside them.",
)
@click.option("--strict", is_flag=True, help="Refuse rows that would make a metric wrong.")
@auto_resume_option
@nproc_option
@restarts_option
@show_option
@runs_option
@json_option
def command(
    arguments: tuple[str, ...],
    resume: str | None,
    baselines: bool,
    folds: int | None,
    refit: bool | None,
    strict: bool,
    auto_resume: bool,
    nproc: int | None,
    restarts: int,
    show: bool,
    runs: Path,
    as_json: bool,
) -> None:
    """Fine-tune a language model for a task on labelled rows.

    RUN is a pretrained run, or 'base', which comes with wafergpt; 'scratch' starts from fresh
    weights. A RUN that is fine-tuned for the same task goes on with its head. Without a RECIPE,
    what KEY=VALUE does not set is chosen by the rows, and said.
    """
    names, overrides = names_and_overrides(arguments, runs)
    require_alone(click.get_current_context().params)
    start, *rest = names or [""]
    name, _ = split_arguments(rest, runs)
    if show:
        if resume and (start or name):
            raise click.UsageError(f"--resume uses the run's own recipe: omit '{start or name}'")
        recipe = (
            resumed(overrides, resume, runs)
            if resume
            else at_start(load_recipe(name, overrides), start, runs, name is None)
        )
        click.echo(recipe.to_yaml(), nl=False)
        return
    if strict and resume:
        raise click.UsageError("--strict checks rows before a training: omit it with --resume")
    # Processes of --nproc come after one that has checked; torchrun's have none before them.
    if strict and start and (place()[1] == 1 or not (is_worker() or LAUNCHED in os.environ)):
        from wafergpt.tasks.checked import check

        recipe = planned(name, overrides, None, runs)
        check(at_start(recipe, start, runs)).require_sound()
    if folds and start:
        cross_validate(start, name, overrides, folds, bool(refit), runs, as_json)
        return
    if bool(start) == bool(resume):
        raise click.UsageError("start from a RUN or from 'scratch', or use --resume RUN")
    if resume and auto_resume:
        raise click.UsageError("--resume names the run to resume: omit --auto-resume")
    if baselines:
        from wafergpt.baselines.requirements import require_comparable

        require_comparable(planned(name, overrides, resume, runs))
    worker = launched(nproc, restarts, lambda: planned(name, overrides, resume, runs))
    from wafergpt.api import finetune

    # Baselines choose by the held-out rows, and are to learn from the same ones.
    twice = False if baselines else refit
    classifier = finetune(
        start, name, overrides, resume=resume, auto_resume=auto_resume, refit=twice, root=runs
    )
    if worker:
        return
    run = classifier.run
    result: dict[str, Any] = run.read("result") | {"held_out": run.read("held_out")}
    try:
        if baselines:
            from wafergpt.apps.comparison import compare

            compare(classifier)
    finally:
        # Whatever stopped a baseline, what there is by now is printed.
        if baselines:
            result["comparison"] = run.read("comparison") or []
        emit(result, as_json, _text(run, result), lambda width: _screen(run, result, width))


def at_start(recipe: Recipe, start: str, runs: Path, chooses: bool = False) -> Recipe:
    """Return the recipe that a fine-tuning would start with; ``chooses`` by the rows too."""
    from wafergpt.train.finetuning import with_task
    from wafergpt.train.resume import start_run

    return with_task(recipe, start_run(start, runs), chooses=chooses)


def _text(run: Run, result: dict[str, Any]) -> str:
    compared = []
    if rows := result.get("comparison"):
        compared = ["", plain(columns(SCORES), cells(rows, SCORES.values())), "", *failures(rows)]
    return "\n".join([*_scores(result), *compared, _next(run)])


def _screen(run: Run, result: dict[str, Any], width: int) -> Iterable[RenderableType]:
    yield from _scores(result)
    if rows := result.get("comparison"):
        yield ""
        yield table(columns(SCORES), cells(rows, SCORES.values()), width)
        yield ""
        yield from failures(rows)
    yield _next(run)


def _scores(result: dict[str, Any]) -> Iterator[str]:
    first = (result.get("held_out") or {}).get("run")
    validation = f"validation ({first}, before the refit)" if first else "validation"
    for part, metrics in ((validation, result["metrics"]), ("test", result["test"])):
        if metrics:
            numbers = [
                f"{k.replace('_', ' ')} {v:.4f}" for k, v in metrics.items() if isinstance(v, float)
            ]
            yield f"{part}: " + ", ".join(numbers)


def _next(run: Run) -> str:
    from wafergpt.cli.next_commands import at_work

    return f"next: {at_work(run)}\n      {run.command('report')}"
