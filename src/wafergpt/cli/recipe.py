"""Shared parts of the verbs that take a recipe."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from wafergpt import files
from wafergpt.cli import HomePath
from wafergpt.config import Recipe, known_keys, load_recipe, recipe_from, shipped_recipes
from wafergpt.config.files import merged
from wafergpt.logs import is_worker, place, say
from wafergpt.runs.run import RUNS, Run

recipe_arguments = click.argument("arguments", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...")

show_option = click.option("--show", is_flag=True, help="Print the full recipe and exit.")

runs_option = click.option(
    "--runs",
    type=HomePath(path_type=Path, file_okay=False),
    default=RUNS,
    show_default=True,
    help="The folder of runs.",
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
    help="With --nproc: restart all up to this many times if one is killed or hangs.",
)

auto_resume_option = click.option(
    "--auto-resume",
    "--go-on",
    "auto_resume",
    is_flag=True,
    help="Resume the run that the same recipe started under this name; start it if there is none.",
)


def launched(nproc: int | None, restarts: int, planned: Callable[[], Recipe]) -> bool:
    """Start the verb as several processes and exit with their code, if several are requested.

    Args:
        nproc: the option of the command line.
        restarts: how often all are started again when one is lost.
        planned: reads the recipe, which may set ``system.nproc`` too.

    Returns:
        Whether this process is a worker rank; rank 0 prints the result.
    """
    if hasattr(signal, "SIGUSR1"):
        # There is nothing to save yet, and the default action would kill the process.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if place()[1] > 1:
        return is_worker()
    recipe = planned()
    wanted = nproc or recipe.system.nproc
    if wanted > 1:
        from wafergpt.distributed.launcher import launch

        recipe.train.require_enough_for(wanted)
        sys.exit(launch(wanted, sys.argv[1:], restarts))
    if restarts:
        raise click.UsageError("--restarts is for several processes: add --nproc")
    return False


def planned(name: str | None, overrides: Sequence[str], resume: str | None, runs: Path) -> Recipe:
    """Read the recipe of a training, before anything is detected."""
    if resume is None:
        return load_recipe(name, overrides)
    recipe = Run.find(resume, runs).recipe
    changes = load_recipe(None, overrides).system.model_dump(exclude_unset=True)
    return recipe_from(merged(recipe.model_dump(), {"system": changes}))


def resumed(overrides: Sequence[str], resume: str, runs: Path) -> Recipe:
    """Return the recipe that a resume goes on with."""
    from wafergpt.train.resume import may_change

    return may_change(Run.find(resume, runs), overrides)


class RecipeCommand(click.Command):
    """A verb that takes a recipe's keys, which have no dashes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line; for an option that is a recipe key, show how to write it."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            word = error.option_name.lstrip("-").replace("-", "_")
            found = [key for key in known_keys() if word in (key, key.rpartition(".")[2])]
            if word in found:
                found = [word]
            if len(found) != 1:
                raise
            raise click.UsageError(
                f"no option {error.option_name}; keys of the recipe have no dashes: "
                f"write {found[0]}=VALUE",
                ctx,
            ) from None


def split_arguments(arguments: Sequence[str], runs: Path = RUNS) -> tuple[str | None, list[str]]:
    """Split ``[RECIPE] [KEY=VALUE]…`` into the recipe's name and the overrides.

    Raises:
        UsageError: if there are two names, or an argument is almost an override.
    """
    names, overrides = names_and_overrides(arguments, runs)
    if len(names) > 1:
        raise click.UsageError(
            f"one recipe at a time: '{names[0]}' or '{names[1]}'? overrides are written KEY=VALUE"
        )
    if names and names_a_run(names[0], runs):
        raise click.UsageError(
            f"'{names[0]}' is a run, not a recipe: --from {names[0]} starts from its weights"
        )
    return (names[0] if names else None), overrides


def names_a_run(name: str, runs: Path) -> bool:
    """Return whether a name is that of a run, and of no shipped recipe."""
    return name not in shipped_recipes() and (runs / name / "recipe.yaml").is_file()


def names_and_overrides(
    arguments: Sequence[str],
    runs: Path = RUNS,
    apart: Callable[[str], bool] = lambda argument: False,
) -> tuple[list[str], list[str]]:
    """Separate recipes and runs from overrides; a path may contain a ``=``.

    Args:
        arguments: of the command line.
        runs: the folder of runs.
        apart: whether an override is of a kind of its own, beside which its key may have another.

    Raises:
        UsageError: if an argument is almost an override.
    """
    names: list[str] = []
    overrides: list[str] = []
    given: dict[tuple[str, bool], str] = {}
    for index, argument in enumerate(arguments):
        before = arguments[index - 1] if index else "KEY"
        following = arguments[index + 1 : index + 3]
        if _is_override(argument, runs):
            _require_joined(before, argument, following)
            key = argument.partition("=")[0].strip()
            place = key, apart(argument)
            if given.get(place, argument) != argument:
                say(f"{key} is given twice: '{argument}' is used, not '{given[place]}'")
            given[place] = argument
            overrides.append(argument)
        else:
            _require_no_key(argument, following, runs)
            names.append(argument)
    return names, overrides


def _is_override(argument: str, runs: Path) -> bool:
    key, equals, _ = argument.partition("=")
    if not equals:
        return False
    if key.strip().partition(".")[0] in Recipe.model_fields:
        return True
    # No key has a slash, and an existing path is a path.
    return not (re.search(r"[/\\~]", key) or _is_there(argument, runs))


def _is_there(name: str, runs: Path) -> bool:
    return files.exists(Path(name)) or files.exists(runs / name)


def _require_joined(before: str, argument: str, following: Sequence[str]) -> None:
    """Refuse ``key = value`` and the like, which a shell splits into several arguments."""
    key, _, text = argument.partition("=")
    wanted = known_keys().get(key)
    if not key:
        raise _separate(before, text or "".join(following[:1]))
    if wanted and not text and following and "=" not in following[0]:
        path = Path(following[0])
        rows = files.is_file(path) and path.suffix not in (".yaml", ".yml")
        is_value = wanted.kind == "path" and (rows or files.is_corpus(path))
        if is_value or not (wanted.optional or wanted.several):
            raise _separate(key, following[0])


def _require_no_key(name: str, following: Sequence[str], runs: Path) -> None:
    """Refuse ``key`` and ``key:value`` in place of a recipe's or a run's name."""
    key, _, text = name.partition(":")
    if key not in known_keys() or _is_there(name, runs):
        return
    if following and following[0].startswith("="):
        raise _separate(name, following[0][1:] or "".join(following[1:]))
    raise click.UsageError(
        f"'{name}' is not a recipe: keys are written KEY=VALUE, as {key}={text or 'VALUE'}"
    )


def _separate(key: str, value: str) -> click.UsageError:
    return click.UsageError(f"no space is allowed beside '=': write {key}={value or 'VALUE'}")
