"""``wafergpt plan``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wafergpt.cli import HomePath, emit, json_option
from wafergpt.cli.recipe import (
    RecipeCommand,
    nproc_option,
    recipe_arguments,
    runs_option,
    show_option,
    split_arguments,
)
from wafergpt.cli.tables import Cell, Column, Row, details, plain, table
from wafergpt.config.files import HORIZONS
from wafergpt.logs import say

if TYPE_CHECKING:
    from rich.console import RenderableType

    from wafergpt.config import Optimizer
    from wafergpt.planning.plan import Plan

DOES_NOT_FIT = "DOES NOT FIT"

LEAST_SHARE = 0.005
"""A smaller part of the time is not shown."""

COLUMNS = [
    Column("layers × width"), Column("parameters", right=True, rank=2),
    Column("tokens", right=True, rank=1), Column("per parameter", right=True, rank=3),
    Column("batch", right=True, rank=5), Column("tokens/s", right=True, rank=4),
    Column("expected loss", right=True),
]  # fmt: skip
"""Of the shapes that a budget could buy."""

MAX_KINDS = 20
"""The number of operator kinds that are listed."""


@click.command(
    "plan",
    cls=RecipeCommand,
    epilog="Example: wafergpt plan data.corpus=corpora/reviews --budget 30m",
)
@recipe_arguments
@click.option(
    "--budget",
    metavar="BUDGET",
    help="Find the best model for 90s, 30m, '50M tokens' or '1e15 FLOPs'.",
)
@click.option("--from", "start", metavar="RUN", help="The run to start from.")
@click.option("--quick", is_flag=True, help="Estimate; run nothing.")
@click.option("--fresh", is_flag=True, help="Measure this machine again.")
@click.option("--machine", type=HomePath(path_type=Path), metavar="FILE",
              help="Estimate for another machine: its wafergpt doctor --json.")  # fmt: skip
@click.option(
    "--parametrization",
    "shows_table",
    is_flag=True,
    help="Print initial weights, learning rates and multipliers by role; nothing else.",
)
@click.option("--lower", "lowers", is_flag=True, help="Lower one training step to Cerebras IR.")
@nproc_option
@click.option("--measure", type=click.Path(path_type=Path), hidden=True)
@show_option
@runs_option
@json_option
def command(
    arguments: tuple[str, ...],
    budget: str | None,
    start: str | None,
    quick: bool,
    fresh: bool,
    machine: Path | None,
    shows_table: bool,
    lowers: bool,
    nproc: int | None,
    measure: Path | None,
    show: bool,
    runs: Path,
    as_json: bool,
) -> None:
    """Find out what a recipe costs before it runs.

    The training is begun in a process of its own, and some of its updates are timed. With
    --budget, shape, tokens, batch and learning rate of a language model are chosen for that time;
    add --show to print the recipe, ready to be saved and trained.
    """
    if measure is not None:
        from wafergpt.train.measure_process import work

        work(measure)
        return
    from wafergpt.api import plan

    if nproc is not None:
        arguments = (*arguments, f"system.nproc={nproc}")
    name, overrides = split_arguments(arguments, runs)
    others = (budget, start, machine)
    if shows_table and (show or lowers or quick or fresh or any(others)):
        raise click.UsageError("--parametrization prints a recipe's table: omit the other options")
    if lowers and (show or quick or fresh or any(others)):
        raise click.UsageError("--lower takes a recipe alone: omit the other options")
    if show and not budget and (quick or fresh or any(others)):
        raise click.UsageError("--show prints the recipe, or what a --budget chooses")
    if fresh and (machine or quick):
        raise click.UsageError("--fresh measures this machine: omit --machine and --quick")
    if shows_table:
        from wafergpt.config import load_recipe
        from wafergpt.shapes.parametrization import parametrization
        from wafergpt.shapes.roles import LORA

        recipe = load_recipe(name, overrides)
        found_table = parametrization(recipe.model).to_dict()
        if not recipe.lora.rank:
            for role in LORA:
                del found_table["rows"][role]
        emit(found_table, as_json, _table(found_table, recipe.optimizer))
        return
    if show and budget is None:
        from wafergpt.config import load_recipe

        click.echo(load_recipe(name, overrides).to_yaml(), nl=False)
        return
    if lowers:
        from wafergpt.cerebras.lowering import lower

        lowering = lower(name, overrides)
        emit({"lowering": lowering}, as_json, _lowered(lowering))
        return
    found = plan(
        name, overrides, start=start, budget=budget, quick=quick, fresh=fresh, machine=machine,
        root=runs,
    )  # fmt: skip
    if show:
        for note in found.notes:
            say(f"note: {note}")
        click.echo(found.recipe().to_yaml(), nl=False)
        return
    following = []
    if found.measured and found.fits:
        following = [_next(found, arguments, start, budget, runs)]
    _print(found, following, as_json)


def _print(plan: Plan, following: Sequence[str], as_json: bool) -> None:
    facts = plan.to_dict()
    rows = _rows(facts, plan.notes)
    lines = [f"{name:>11}  {value}" for name, value in rows]
    if facts["candidates"]:
        lines += ["", plain(COLUMNS, _candidates(facts))]
    text = "\n".join([*lines, *following])
    emit(facts, as_json, text, lambda width: [*_screen(facts, rows, width), *following])


def _next(
    plan: Plan, arguments: Sequence[str], start: str | None, budget: str | None, runs: Path
) -> str:
    """Return the command that trains what was planned."""
    from wafergpt.config import load_recipe
    from wafergpt.files import is_corpus
    from wafergpt.planning.budget import UNSET
    from wafergpt.runs.run import command_line

    words = [f"data.corpus={word}" if is_corpus(Path(word)) else word for word in arguments]
    if budget is not None:
        chosen = _chosen(plan)
        gone = {word.partition("=")[0] for word in chosen}
        gone |= {f"train.{key}" for key in (*HORIZONS, *UNSET)}
        words = [word for word in words if word.partition("=")[0] not in gone] + chosen
        # What a recipe's file sets of another batch than the one that is chosen.
        given = load_recipe(split_arguments(words, runs)[0], []).train
        words += [f"train.{key}=0" for key in UNSET if getattr(given, key)]
    name = _free_name(plan.asked.name, runs)
    if name != plan.asked.name:
        words = [word for word in words if not word.startswith("name=")] + [f"name={name}"]
    if plan.asked.task is not None:
        return f"next: {command_line('finetune', start or 'scratch', *words, root=runs)}"
    source = [] if start is None else ["--from", start]
    return f"next: {command_line('pretrain', *words, *source, root=runs)}"


def _free_name(name: str, runs: Path) -> str:
    """Return a run's name that does not exist yet: the one asked for, else with a number."""
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(one for one in names if not (runs / one).exists())


def _chosen(plan: Plan) -> list[str]:
    """Return what a budget chose, as overrides."""
    from wafergpt.planning.budget import CHOSEN

    values = plan.recipe().model_dump()
    return [f"{name}.{key}={values[name][key]}" for name, some in CHOSEN.items() for key in some]


def _table(facts: dict[str, Any], optimizer: Optimizer) -> str:
    from wafergpt.shapes.roles import MEANING

    columns = list(next(iter(facts["rows"].values()))["lr_factors"])
    head = "".join(f"{f'lr {name}':>12}" for name in columns)
    lines = [f"{'role':<14}{'init σ':>10}{head}  {'decays':<7} what"]
    for role, row in facts["rows"].items():
        lr = optimizer.lr * (optimizer.ngram_lr_factor if role == "ngram" else 1.0)
        factors = row["lr_factors"].values()
        if role == "task_ngram":
            # Its own, whatever the optimizer of the network.
            lr, factors = optimizer.task_ngram_lr, [1.0] * len(factors)
        rates = "".join(f"{lr * factor:>12.4g}" for factor in factors)
        decays = "yes" if row["decays"] else "no"
        lines.append(f"{role:<14}{row['init_std']:>10.4g}{rates}  {decays:<7} {MEANING[role]}")
    multipliers = ", ".join(f"{name} × {value:.6g}" for name, value in facts["multipliers"].items())
    return "\n".join([*lines, f"multipliers: {multipliers}"])


def _lowered(lowering: dict[str, Any]) -> str:
    kinds = [f"{count:>7,}  {name}" for name, count in lowering["operator_kinds"].items()]
    return "\n".join(
        [
            f"one training step lowers to Cerebras IR: {lowering['ir_bytes']:,} bytes, "
            f"{lowering['operators']:,} operators, in {lowering['seconds']:.0f}s",
            *kinds[:MAX_KINDS],
            "kernels, memory and speed are known only after a cluster's compiler has run",
        ]
    )


def _steps(facts: dict[str, Any]) -> str:
    if facts["task"]:
        return f"{facts['steps']:,} of {facts['batch_size']:,} rows"
    first, steps = facts["first_steps"], facts["steps"]
    parts = [(first, facts["first_batch_tokens"]), (steps - first, facts["batch_tokens"])]
    return ", then ".join(f"{n:,} of {tokens:,} tokens" for n, tokens in parts if n)


def _time(facts: dict[str, Any]) -> str:
    from wafergpt.planning.duration import PARTS
    from wafergpt.progress import duration

    parts = [
        f"{name} {duration(facts['time'][part])}"
        for part, name in PARTS.items()
        if facts["time"][part] >= LEAST_SHARE * facts["seconds"]
    ]
    if cold := facts["cold_compile_seconds"]:
        parts.append(f"compiling with an empty cache {duration(cold)}")
    return f"{duration(facts['seconds'])}: {', '.join(parts)}"


def _tables(facts: dict[str, Any]) -> str:
    tables, trained = facts["ngram_parameters"], facts["trained_parameters"]
    own = f", {trained:,} of them trained" if trained < facts["parameters"] else ""
    return (f", {tables:,} of them in n-gram tables" if tables else "") + own


def _loss(facts: dict[str, Any]) -> str:
    if "why" in facts:
        return str(facts["why"])
    loss, low, high = (facts[f"predicted_loss{end}"] for end in ("", "_low", "_high"))
    return f"{loss:.2f} ({low:.2f} to {high:.2f}) on {facts['predicted_loss_of']}"


def _screen(
    facts: dict[str, Any], rows: Sequence[tuple[str, str]], width: int
) -> Iterator[RenderableType]:
    styles = {"note": "yellow"}
    yield details(
        (
            Cell(name, styles.get(name, "bold")),
            Cell(value, "red" if value.endswith(DOES_NOT_FIT) else ""),
        )
        for name, value in rows
    )
    if facts["candidates"]:
        yield ""
        yield table(COLUMNS, _candidates(facts), width)


def _candidates(facts: dict[str, Any]) -> list[Row]:
    """Return a row for each shape that a budget could buy, the best first."""
    chosen = next(one["expected_loss"] for one in facts["candidates"] if one["chosen"])
    return [
        (
            f"{one['n_layers']} × {one['d_model']}",
            f"{one['parameters']:,}",
            f"{one['tokens']:,}",
            f"{one['tokens_per_parameter']:.3g}",
            f"{one['batch_size']}",
            f"{one['tokens_per_second']:,.0f}",
            "chosen" if one["chosen"] else _more(one["expected_loss"] / chosen - 1),
        )
        for one in sorted(facts["candidates"], key=lambda one: one["expected_loss"])
    ]


def _spared(facts: dict[str, Any]) -> str:
    sparse = facts["sparse_flops"]
    return f" ({sparse:.3g} without zeros, on paper)" if sparse < facts["flops"] else ""


def _more(share: float) -> str:
    text = f"{share:+.1%}"
    return "equal" if text in ("+0.0%", "-0.0%") else text


def _layers(n: int) -> str:
    return "1 layer" if n == 1 else f"{n} layers"


def _heads(model: dict[str, Any]) -> str:
    n, width = model["n_heads"], f" of {model['d_head']}" if model["d_head"] else ""
    return ("1 head" if n == 1 else f"{n} heads") + width


def _rows(facts: dict[str, Any], notes: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the rows of a plan: names, and values for people."""
    from wafergpt.reports.formatting import size

    model = facts["model"]
    fits = "fits" if facts["fits"] else DOES_NOT_FIT
    ratio, nproc = facts["tokens_per_parameter"], facts["processes"]
    each = f" for each of {nproc} processes" if nproc > 1 else ""
    gib = 1 << 30
    shape = (
        f"{_layers(model['n_layers'])}, d_model {model['d_model']}, {_heads(model)}, "
        f"d_ffn {model['d_ffn']}, context {model['seq_len']}, vocabulary {model['vocab_size']:,}"
    )
    how = "measured" if facts["measured"] else "estimated: nothing was run"
    rows = {
        "shape": shape,
        "parameters": f"{facts['parameters']:,}{_tables(facts)}",
        "tokens": f"{facts['tokens']:,}"
        + ("" if facts["task"] else f" ({ratio:.3g} per parameter)"),
        "steps": _steps(facts),
        "compute": f"{facts['flops']:.3g} FLOPs, forward and backward{_spared(facts)}",
        "time": _time(facts),
        "speed": f"{facts['tokens_per_second']:,.0f} tokens/s on {facts['device']}, {how}",
        "memory": f"{facts['memory_bytes'] / gib:.2f} GiB{each}, "
        f"{facts['memory_available'] / gib:.1f} GiB are free: {fits}",
        "checkpoint": f"{size(facts['checkpoint_bytes'])} each, "
        f"{size(facts['disk_bytes'])} at most at once",
    }
    if not facts["task"]:
        rows["loss"] = _loss(facts)
    return [*rows.items(), *(("note", note) for note in notes)]
