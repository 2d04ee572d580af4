"""A classifier and its baselines, for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from wafergpt.cli.tables import Column


def cells(rows: Iterable[Mapping[str, Any]], scores: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the cells of each row of a comparison that has a result.

    They are its name, its scores, the accuracy that the GPT has more, and its time.
    """
    from wafergpt.progress import duration
    from wafergpt.reports.formatting import points

    keys = list(scores)
    return [
        (row["name"], *(f"{row[key]:.4f}" for key in keys), points(row), duration(row["seconds"]))
        for row in rows
        if "failed" not in row
    ]


def columns(scores: Iterable[str]) -> list[Column]:
    """Return the columns of ``cells``, whose scores have these names."""
    return [
        Column("", min_width=10),
        *(Column(name, right=True) for name in scores),
        Column("GPT − this, points", right=True, rank=2),
        Column("time", right=True, rank=1),
    ]


def failures(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line for each baseline that failed."""
    return [f"{row['name']}: no result: {row['failed']}" for row in rows if "failed" in row]
