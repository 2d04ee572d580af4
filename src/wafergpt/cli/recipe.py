"""What the verbs that take a recipe share."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from wafergpt.config import Recipe, load_recipe
from wafergpt.progress import follows, place
from wafergpt.run import RUNS, Run

recipe_arguments = click.argument("arguments", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...")

show_option = click.option("--show", is_flag=True, help="Print the recipe in full, and do nothing.")

runs_option = click.option(
    "--runs",
    type=click.Path(path_type=Path, file_okay=False),
    default=RUNS,
    show_default=True,
    help="The folder that holds runs.",
)

nproc_option = click.option(
    "--nproc",
    type=click.IntRange(1, 1 << 16),
    help="Processes that share each batch (system.nproc of the recipe).",
)

restarts_option = click.option(
    "--restarts",
    type=click.IntRange(0),
    default=0,
    help="Of --nproc: start all again so many times when one is killed or hangs.",
)

go_on_option = click.option(
    "--go-on",
    is_flag=True,
    help="Go on with the run that the same recipe began under this name, if it did; else begin.",
)


def launched(nproc: int | None, restarts: int, planned: Callable[[], Recipe]) -> bool:
    """Start the verb again as several processes, and exit with their code, if several are wanted.

    Args:
        nproc: what was asked for on the command line.
        restarts: how often all are started again when one is lost.
        planned: reads the recipe, which may ask for it too.

    Returns:
        Whether this process follows another one, which speaks for all.
    """
    if hasattr(signal, "SIGUSR1"):
        # There is nothing to save yet, and its default is to kill.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if place()[1] > 1:
        return follows()
    recipe = planned()
    wanted = nproc or recipe.system.nproc
    if wanted > 1:
        from wafergpt.parallel.launch import launch

        recipe.train.require_enough_for(wanted)
        sys.exit(launch(wanted, sys.argv[1:], restarts))
    if restarts:
        raise click.UsageError("--restarts is for several processes: add --nproc")
    return False


def planned(name: str | None, overrides: Sequence[str], resume: str | None, runs: Path) -> Recipe:
    """Read the recipe that a training will go by, before what is detected."""
    if resume is None:
        return load_recipe(name, overrides)
    recipe = Run.find(resume, runs).recipe
    changes = load_recipe(None, overrides).system.model_dump(exclude_unset=True)
    return recipe.replace(system=changes)


def split_arguments(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split ``[RECIPE] [KEY=VALUE]…`` into the recipe's name and the overrides."""
    names = [argument for argument in arguments if "=" not in argument]
    if len(names) > 1:
        raise click.UsageError(
            f"one recipe at a time: '{names[0]}' or '{names[1]}'? overrides are written KEY=VALUE"
        )
    return (names[0] if names else None), [a for a in arguments if "=" in a]
