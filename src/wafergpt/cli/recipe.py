"""What the verbs that take a recipe share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from wafergpt.run import RUNS

recipe_arguments = click.argument("arguments", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...")

show_option = click.option("--show", is_flag=True, help="Print the recipe in full, and do nothing.")

runs_option = click.option(
    "--runs",
    type=click.Path(path_type=Path, file_okay=False),
    default=RUNS,
    show_default=True,
    help="The folder that holds runs.",
)


def split_arguments(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split ``[RECIPE] [KEY=VALUE]…`` into the recipe's name and the overrides."""
    names = [argument for argument in arguments if "=" not in argument]
    if len(names) > 1:
        raise click.UsageError(
            f"one recipe at a time: '{names[0]}' or '{names[1]}'? overrides are written KEY=VALUE"
        )
    return (names[0] if names else None), [a for a in arguments if "=" in a]
