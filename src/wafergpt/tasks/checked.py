"""The rows of a task, checked before a training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wafergpt.config import Recipe
from wafergpt.data.labelled_rows import Table
from wafergpt.data.row_checks import (
    Finding,
    RowChecks,
    largest_share,
    suspicious_texts,
    too_long,
)
from wafergpt.data.tokenizer import Tokenizer
from wafergpt.errors import InputError
from wafergpt.progress import working
from wafergpt.tasks.base import task_of
from wafergpt.tasks.hub_rows import with_hub_rows
from wafergpt.tasks.labelled_task import LabelledTask


@dataclass(frozen=True)
class CheckedRows:
    """What the rows of a task are like.

    Attributes:
        splits: by name: ``rows``, ``distinct`` texts, the ``longest`` one in characters, how many
            are ``in_train`` too, and rows by ``classes``.
        findings: what a person should know, the serious ones first.
        notes: on the rows, as a training says them.
    """

    splits: Mapping[str, Mapping[str, Any]]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def serious(self) -> list[Finding]:
        """What makes a metric or the training wrong."""
        return [finding for finding in self.findings if finding.serious]

    def require_sound(self) -> None:
        """Refuse rows with a serious finding.

        Raises:
            InputError: if there is one.
        """
        if found := self.serious:
            more = f" (and {len(found) - 1} more: wafergpt check)" if len(found) > 1 else ""
            raise InputError(f"{found[0].text}{more}")


def check(
    recipe: Recipe, tokenizer: Tokenizer | None = None, limit: int | None = None
) -> CheckedRows:
    """Check the rows that a recipe names.

    Args:
        recipe: with a task that learns from labelled rows.
        tokenizer: to count tokens with; without one they are not counted.
        limit: tokens of a text at most.

    Returns:
        What they are like, and what was found.

    Raises:
        InputError: if the recipe names no rows, or they cannot be read.
    """
    recipe = with_hub_rows(recipe)
    task = task_of(recipe)
    if not isinstance(task, LabelledTask) or task.settings.train is None:
        raise InputError("which labelled rows? add task.train=FILE")
    with working("reading the rows"):
        named = task.read_named()
    notes = [note for table in named.values() for note in table.notes]
    found: list[Finding] = []
    try:
        named, more = task.settle(named)
        notes += more
    except InputError as error:
        found.append(Finding("labels", str(error), 0, True))
    with working("comparing the rows"):
        checks, train = RowChecks(named), named["train"]
        classes = {name: task.class_names(table) for name, table in named.items()}
        found += checks.across()
        if classes["train"]:
            found += checks.contradictory()
        found += checks.repeated()
        if isinstance(train, Table):
            found += largest_share(classes["train"], len(train.texts))
            labels = train.labels if classes["train"] else ()
            found += suspicious_texts(train.texts, labels)
        else:
            found += largest_share(classes["train"], len(classes["train"]))
    if tokenizer is not None and limit is not None:
        with working("counting tokens"):
            for name, table in named.items():
                found += too_long(name, table.texts, tokenizer, limit)
    splits = {
        name: {
            "rows": checks.rows[name],
            "distinct": checks.distinct[name],
            "longest": max(map(len, table.texts), default=0),
            "in_train": checks.in_train.get(name),
            "classes": dict(Counter(classes[name])),
        }
        for name, table in named.items()
    }
    return CheckedRows(splits, tuple(sorted(found, key=lambda one: not one.serious)), tuple(notes))
