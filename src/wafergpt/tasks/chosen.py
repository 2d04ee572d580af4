"""Settings of a fine-tuning that follow from its rows, where no recipe is named.

Measured on six labelled sets of 500 to 15,000 rows: benchmarks/finetuning.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

ALWAYS: Mapping[str, Any] = {
    "task.pooling": "mean_max_last",
    "task.ngrams": "characters",
    "model.dropout": 0.1,
    "optimizer.lr": 6e-4,
    "optimizer.beta2": 0.98,
    "schedule.name": "linear",
    "schedule.warmup": "5%",
    "schedule.final": 0.0,
}

KEYS = (*ALWAYS, "train.batch_size", "train.epochs", "evaluate.every")
"""All keys that can be chosen."""

MOST_EPOCHS, LEAST_EPOCHS = 15, 2

ONCE = 115_000
"""Rows that are read once: fewer are read more often, by the square root."""

FEW, MANY = 3000, 4000
"""Below FEW rows the held-out ones are too few to choose a checkpoint by: the last one is taken.
From MANY on, batches are twice as large."""


def chosen(keys: Sequence[str], rows: int) -> dict[str, dict[str, Any]]:
    """Return values for the keys that are to be chosen, by section.

    Args:
        keys: of ``KEYS``.
        rows: number of training rows.
    """
    batch = min(32 if rows >= MANY else 16, rows)
    epochs = min(MOST_EPOCHS, max(LEAST_EPOCHS, round((ONCE / rows) ** 0.5)))
    values = {**ALWAYS, "train.batch_size": batch, "train.epochs": float(epochs)}
    if rows < FEW:
        values["evaluate.every"] = math.ceil(rows / batch) * epochs
    sections: dict[str, dict[str, Any]] = {}
    for key in keys:
        if key in values:
            section, _, name = key.partition(".")
            sections.setdefault(section, {})[name] = values[key]
    return sections
