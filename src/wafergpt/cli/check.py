"""``wafergpt check``: labelled rows, before a fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wafergpt.cli import emit, json_option
from wafergpt.cli.finetune import at_start
from wafergpt.cli.recipe import (
    RecipeCommand,
    names_and_overrides,
    planned,
    runs_option,
    split_arguments,
)
from wafergpt.cli.tables import Column, Row, plain, table
from wafergpt.runs.run import SCRATCH

if TYPE_CHECKING:
    from rich.console import RenderableType

    from wafergpt.data.tokenizer import Tokenizer
    from wafergpt.tasks.checked import CheckedRows

SHOWN = 20
"""Classes that the table lists: half of them the most frequent, half the rarest."""


@click.command(
    "check",
    cls=RecipeCommand,
    epilog="Example: wafergpt check base task.train=train.csv task.test=test.csv",
)
@click.argument("arguments", nargs=-1, metavar="[RUN|scratch] [RECIPE] [KEY=VALUE]...")
@click.option("--strict", is_flag=True, help="Exit with code 2 if a metric would be wrong.")
@runs_option
@json_option
def command(arguments: tuple[str, ...], strict: bool, runs: Path, as_json: bool) -> None:
    """Check labelled rows before a fine-tuning.

    It takes the arguments of finetune. It finds texts that are in two splits, or several times in
    one; texts with several labels; labels that training lacks; ids in place of texts; labels inside
    their texts; and, with a RUN, texts longer than its context.
    """
    names, overrides = names_and_overrides(arguments, runs)
    start, *rest = names or [""]
    if not rest and Path(start).suffix in (".yaml", ".yml"):
        # A recipe alone, which names the rows.
        start, rest = "", [start]
    name, _ = split_arguments(rest, runs)
    recipe = planned(name, overrides, None, runs)
    if recipe.task is None:
        raise click.UsageError("name the labelled rows: task.train=FILE")
    limit = recipe.task.max_tokens
    tokenizer, context = _reader(start, runs)
    if tokenizer is not None:
        recipe = at_start(recipe, start, runs)
    from wafergpt.tasks.checked import check

    checked = check(recipe, tokenizer, limit or context)
    result = {
        "splits": checked.splits,
        "findings": [asdict(finding) for finding in checked.findings],
        "serious": len(checked.serious),
        "notes": checked.notes,
    }
    emit(result, as_json, _text(checked), lambda width: _screen(checked, width))
    if strict:
        checked.require_sound()


def _reader(start: str, runs: Path) -> tuple[Tokenizer | None, int | None]:
    """Return the tokenizer and the context of the run to start from, if there is one."""
    if start in ("", SCRATCH):
        return None, None
    from wafergpt.data.tokenizer import Tokenizer
    from wafergpt.runs.run import Run

    run = Run.find(start, runs)
    return Tokenizer.load(run.tokenizer), run.recipe.model.seq_len


def _text(checked: CheckedRows) -> str:
    return "\n".join([plain(_columns(checked), _rows(checked.splits)), "", *_lines(checked)])


def _screen(checked: CheckedRows, width: int) -> Iterator[RenderableType]:
    yield table(_columns(checked), _rows(checked.splits), width)
    yield ""
    yield from _lines(checked)


def _columns(checked: CheckedRows) -> list[Column]:
    return [Column("", min_width=10), *(Column(name, right=True) for name in checked.splits)]


def _rows(splits: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    rows: list[Row] = []
    for title, key in (
        ("rows", "rows"), ("different texts", "distinct"), ("texts that train has too", "in_train"),
        ("characters of the longest", "longest"),
    ):  # fmt: skip
        values = [split[key] for split in splits.values()]
        if all(value is None for value in values):
            continue
        rows.append((title, *("–" if value is None else f"{value:,}" for value in values)))
    first = next(iter(splits.values()))["classes"]
    classes = {name: None for split in splits.values() for name in split["classes"]}
    order = sorted(classes, key=lambda name: (-first.get(name, 0), name))
    left_out = len(order) - SHOWN
    if order:
        rows.append(("rows of each label", *("" for _ in splits)))
    for place, name in enumerate(order):
        if left_out > 1 and place == SHOWN // 2:
            rows.append((f"… {left_out:,} more labels …", *("" for _ in splits)))
        if left_out > 1 and SHOWN // 2 <= place < SHOWN // 2 + left_out:
            continue
        counts = (split["classes"].get(name, 0) for split in splits.values())
        rows.append((f"– {name}", *(f"{count:,}" for count in counts)))
    return rows


def _lines(checked: CheckedRows) -> Iterator[str]:
    yield from checked.notes
    for finding in checked.findings:
        yield finding.text if not finding.serious else f"wrong: {finding.text}"
    if not checked.serious:
        yield "nothing here would make a metric wrong"
