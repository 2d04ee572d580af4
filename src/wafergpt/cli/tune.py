"""``wafergpt tune``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from wafergpt.cli import HomePath, Names, emit, json_option
from wafergpt.cli.recipe import (
    RecipeCommand,
    names_a_run,
    names_and_overrides,
    nproc_option,
    runs_option,
)
from wafergpt.cli.tables import Cell, details
from wafergpt.config.recipe import DEFAULT_TASK
from wafergpt.runs.run import SCRATCH, Run, command_line
from wafergpt.tuning.samplers import Pruner, Sampler
from wafergpt.tuning.spaces import is_space

COMMAND_LINE = click.core.ParameterSource.COMMANDLINE

if TYPE_CHECKING:
    from rich.console import RenderableType


@click.command(
    "tune",
    cls=RecipeCommand,
    epilog="Example: wafergpt tune base task.train=rows.csv --budget 30m name=reviews",
)
@click.argument("arguments", nargs=-1, metavar="RUN|scratch|RECIPE [RECIPE] [KEY=SPACE|VALUE]...")
@click.option(
    "--budget",
    metavar="AMOUNT",
    help="Total for all trials: a time (30m, 2d) or FLOPs (1e16FLOPs).",
)
@click.option("--trials", type=click.IntRange(1), help="Number of trials, the default among them.")
@click.option("--metric", help="Metric to choose by.  [default: the recipe's evaluate.metric]")
@click.option(
    "--also", type=Names(), default="", help="Further objectives, comma-separated: latency, size."
)
@click.option("--sampler", type=click.Choice(get_args(Sampler)), default="tpe", show_default=True)
@click.option("--pruner", type=click.Choice(get_args(Pruner)), default="asha",
              show_default=True, help="Stops trials early that fall behind.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 1024), default=1, show_default=True,
              help="Number of trials at a time.")  # fmt: skip
@nproc_option
@click.option("--ray", default="", metavar="ADDRESS",
              help="Make the trials on a Ray cluster: HOST:PORT, auto, or local.")  # fmt: skip
@click.option("--width", type=click.IntRange(1),
              help="Under µP, tune a proxy of this d_model for the wide recipe.")  # fmt: skip
@click.option("--steps", type=click.IntRange(1),
              help="Steps of the proxy; default 20 tokens per parameter.")  # fmt: skip
@click.option("--storage", default="", metavar="URL",
              help="Keep the trials in a database, as postgresql+psycopg://host/name.")  # fmt: skip
@click.option("--keep", is_flag=True, help="Keep the weights of all trials.")
@click.option("--join", type=HomePath(path_type=Path, file_okay=False), metavar="STUDY",
              help="Work on a study that another process has begun.")  # fmt: skip
@click.option("--trial", type=click.Path(path_type=Path), hidden=True)
@runs_option
@json_option
def command(arguments: tuple[str, ...], **options: Any) -> None:
    """Try settings of a training, and keep the best.

    With task.train=FILE it fine-tunes RUN, or 'scratch'; else it pretrains by RECIPE, with
    data.corpus=FOLDER from RUN. A key may
    have a space instead of a value: low..high, low..high:log, or a,b,c. Without any, learning rate,
    passes and the like are tuned around what the training would choose. The first trial is the
    default. The same command goes on where it stopped.
    """
    if options["trial"]:
        from wafergpt.tuning.making import train_trial

        train_trial(options["trial"])
        return
    if options["join"]:
        from wafergpt.tuning.making import join

        context = click.get_current_context()
        given = [name for name in options if context.get_parameter_source(name) is COMMAND_LINE]
        if arguments or set(given) - {"join", "runs"}:
            raise click.UsageError("--join works on a study as it was asked for: nothing else")
        join(options["join"])
        return
    from wafergpt import api

    runs: Path = options["runs"]
    # A value beside a space is the default's.
    names, given = names_and_overrides(arguments, runs, lambda one: is_space(one, DEFAULT_TASK))
    start, recipe = _start_and_recipe(names, given, runs)
    if options["nproc"]:
        given = [*given, f"system.nproc={options['nproc']}"]
    named = ("budget", "trials", "metric", "sampler", "pruner", "workers", "width", "steps",
             "storage", "ray", "keep")  # fmt: skip
    run = api.tune(
        start,
        recipe,
        given,
        also=options["also"],
        root=runs,
        **{name: options[name] for name in named},
    )
    result = run.read("result")
    shown = {key: result.get(key) for key in ("study", "metric", "objectives", "best",
             "best_trial", "chosen", "chosen_trial", "not_beaten", "value", "default_value",
             "trials", "recipe", "test", "default_test", "difference", "made")}  # fmt: skip
    text = "\n".join(f"{name}: {value}" for name, value in _lines(result))
    emit(
        shown,
        options["as_json"],
        "\n".join([text, *_next(run, result)]),
        lambda width: _screen(run, result),
    )


def _start_and_recipe(
    names: Sequence[str], given: Sequence[str], runs: Path
) -> tuple[str | None, str | None]:
    """Tell what is fine-tuned, and by which recipe."""
    if len(names) > 2:
        raise click.UsageError(f"a run and a recipe at most, not also '{names[2]}'")
    first, second = [*names, None, None][:2]
    if second or any(argument.startswith("task.") for argument in given):
        return first, second
    if first and first != SCRATCH and names_a_run(first, runs):
        if not any(argument.startswith("data.corpus=") for argument in given):
            raise click.UsageError(
                f"{first} is fine-tuned on rows, or pretrained further on text: add "
                "task.train=FILE or data.corpus=FOLDER"
            )
        return first, None
    if first == SCRATCH:
        raise click.UsageError("scratch is fine-tuned on rows: add task.train=FILE")
    return None, first


def _lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    from wafergpt.tuning.summary import explained

    told = [line.partition(": ") for line in explained(result)]
    return [*((name, value) for name, _, value in told), ("recipe", result["recipe"])]


def _next(run: Run, result: dict[str, Any]) -> list[str]:
    from wafergpt.cli.next_commands import at_work

    made = result.get("made")
    wide = command_line("pretrain", result["recipe"], root=run.path.parent)
    first = at_work(Run(Path(made))) if made else wide
    return [f"next: {first}", f"      {run.command('report')}"]


def _screen(run: Run, result: dict[str, Any]) -> Iterable[RenderableType]:
    yield details((Cell(name, "bold"), value) for name, value in _lines(result))
    yield from _next(run, result)
