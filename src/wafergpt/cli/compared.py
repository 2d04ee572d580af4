"""A classifier and its baselines, for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def cells(rows: Iterable[Mapping[str, Any]], scores: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the name, the scores and the time of each row of a comparison that has a result."""
    from wafergpt.progress import duration

    keys = list(scores)
    return [
        (row["name"], *(f"{row[key]:.4f}" for key in keys), duration(row["seconds"]))
        for row in rows
        if "failed" not in row
    ]


def failures(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line for each baseline that failed."""
    return [f"{row['name']}: no result: {row['failed']}" for row in rows if "failed" in row]
