"""``wafergpt mup``: check µP, and tune a narrow model for a wide one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wafergpt import files
from wafergpt.cli import Group, HomePath, emit, json_option
from wafergpt.cli.recipe import RecipeCommand, recipe_arguments, runs_option, split_arguments
from wafergpt.errors import InputError
from wafergpt.progress import working


def _numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Read ``64,128,256``."""
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(
            f"'{value}' is not a list such as 64,128,256", ctx, param
        ) from None


@click.group("mup", cls=Group, epilog="Example: wafergpt mup check")
def command() -> None:
    """Check the maximal update parametrization, and transfer settings with it."""


@command.command(
    "check",
    cls=RecipeCommand,
    short_help="Check that no layer's change depends on the width.",
    epilog="Example: wafergpt mup check --out check.html",
)
@recipe_arguments
@click.option("--widths", callback=_numbers, default="64,128,256,512", show_default=True)
@click.option("--steps", type=click.IntRange(1, 1000), default=7, show_default=True)
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option(
    "--out",
    type=HomePath(path_type=Path, dir_okay=False),
    default=Path("mup-check.html"),
    show_default=True,
    help="The page to write.",
)
@json_option
def check(
    arguments: tuple[str, ...],
    widths: tuple[int, ...],
    steps: int,
    seeds: int,
    out: Path,
    as_json: bool,
) -> None:
    """Train small networks at several widths and plot how much each layer's output changes.

    Under µP the change does not depend on the width; the standard parametrization is plotted for
    comparison. The exit code is 1 if µP does not hold.
    """
    from wafergpt.config import load_recipe
    from wafergpt.reports.mup import write_check

    with working("loading torch"):
        from wafergpt.tuning.coordinate_check import coordinate_check

    name, overrides = split_arguments(arguments)
    recipe = load_recipe(name or "mup-check", overrides)
    if recipe.model.parametrization != "mup":
        raise InputError(
            "only µP can be checked: add model.parametrization=mup, or name a µP recipe"
        )
    if len(set(widths)) < 2:
        raise InputError("a slope needs two widths: --widths 64,128")
    files.require_writable(out.parent, "--out")
    plain = recipe.replace(model={"parametrization": "sp"})
    found = {
        kind: coordinate_check(asked, widths, steps, seeds)
        for kind, asked in (("mup", recipe), ("sp", plain))
    }
    write_check(found, recipe, out)
    result: dict[str, Any] = {kind: one.to_dict() for kind, one in found.items()}
    result |= {"passed": found["mup"].passed, "verdict": found["mup"].verdict, "report": str(out)}
    emit(result, as_json, _text(result, out))
    if not found["mup"].passed:
        raise click.exceptions.Exit(1)


def _text(result: dict[str, Any], out: Path) -> str:
    from wafergpt.tuning.coordinate_check import INITIAL, may_fall

    mup, plain = result["mup"], result["sp"]
    slopes = {kind: {**one["slopes"], INITIAL: one["initial_logits_slope"]}
              for kind, one in (("mup", mup), ("sp", plain))}  # fmt: skip
    lines = [f"{'slope of the change over the width':>34}  {'µP':>6}  {'sP':>6}"]
    for name, slope in slopes["mup"].items():
        mark = "  ← depends on the width" if name in mup["broken"] else ""
        if not mark and may_fall(name):
            mark = "  (may fall)"
        lines.append(f"{name:>34}  {slope:+6.2f}  {slopes['sp'][name]:+6.2f}{mark}")
    lines.append(f"{result['verdict']}, at d_model {mup['widths'][0]} to {mup['widths'][-1]}")
    if not mup["passed"]:
        lines.append("another learning rate, or more --seeds, may show it more clearly")
    return "\n".join([*lines, f"plotted in {out}"])


@command.command(
    "transfer",
    cls=RecipeCommand,
    short_help="Tune a narrow proxy, and write the wide recipe.",
    epilog="Example: wafergpt mup transfer big.yaml --width 128 --trials 12 --out tuned.yaml",
)
@recipe_arguments
@click.option("--width", type=click.IntRange(1), required=True, help="d_model of the proxy.")
@click.option("--trials", type=click.IntRange(1), default=12, show_default=True)
@click.option(
    "--steps", type=click.IntRange(1), help="Of each trial; default 20 tokens per parameter."
)
@click.option(
    "--tune",
    default="lr",
    show_default=True,
    help="Settings, comma-separated: lr, init_std, embedding_scale, output_scale.",
)
@click.option(
    "--out",
    type=HomePath(path_type=Path, dir_okay=False),
    required=True,
    help="The tuned recipe to write.",
)
@runs_option
@json_option
def transfer(
    arguments: tuple[str, ...],
    width: int,
    trials: int,
    steps: int | None,
    tune: str,
    out: Path,
    runs: Path,
    as_json: bool,
) -> None:
    """Tune a narrow proxy of RECIPE, and write RECIPE with the best settings.

    The recipe needs a corpus (data.corpus=FOLDER) and µP. If stopped, run the same command to
    resume.
    """
    from wafergpt import api, atomic_files
    from wafergpt.config import load_recipe
    from wafergpt.runs.run import command_line
    from wafergpt.tuning.spaces import spaces_of_mup

    name, overrides = split_arguments(arguments)
    if name and Path(name).exists() and out.exists() and out.samefile(name):
        raise InputError(f"--out {out} is the recipe itself: choose another file")
    settings = [part.strip() for part in tune.split(",")]
    spaces = spaces_of_mup(load_recipe(name, overrides), settings)
    run = api.tune(
        None, name, [*overrides, *spaces], trials=trials, width=width, steps=steps, pruner="none",
        root=runs,
    )  # fmt: skip
    found = run.read("result")
    atomic_files.write_text(out, Path(found["recipe"]).read_text(encoding="utf-8"))
    best = ", ".join(f"{key}={value}" for key, value in found["best"].items())
    text = (
        f"best of {found['trials']} trials: {best} (validation loss {found['value']:.4f})\n"
        f"the tuned recipe: {out}\nthe trials: {command_line('runs', run.path)}\n"
        f"next: {command_line('pretrain', out, root=runs)}"
    )
    result = {key: found[key] for key in ("best", "value", "trials")}
    emit({**result, "recipe": str(out), "folder": str(run.path)}, as_json, text)
