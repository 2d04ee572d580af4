"""Read numbers from JSON that may lack them, and format numbers for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wafergpt.errors import InputError
from wafergpt.runs.run import Run

MISSING = "–"


LARGEST = 1e100
"""An upper bound of every quantity of a run; sums and ratios of smaller ones are finite."""


def read_object(run: Run, name: str) -> Mapping[str, Any]:
    """Read one of the run's JSON objects; empty if the file does not exist.

    Raises:
        InputError: if the file is not a JSON object.
    """
    value = run.read(name)
    if not isinstance(value, Mapping | None):
        raise InputError(f"{run.path / name}.json is damaged: it is not an object")
    return value or {}


def read_rows(run: Run) -> list[dict[str, Any]]:
    """Read the rows of metrics.jsonl that have a step.

    Raises:
        InputError: if a line before the last is not a JSON object.
    """
    return [row for row in run.metrics() if number(row, "step") is not None]


def number(values: object, key: str) -> float | None:
    """Return ``values[key]`` if ``values`` is a mapping that holds a sane number there."""
    value = values.get(key) if isinstance(values, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < LARGEST else None


def share(values: object, key: str) -> float | None:
    """Return ``values[key]`` if it is a number from 0 to 1."""
    value = number(values, key)
    return value if value is not None and 0 <= value <= 1 else None


def sequence(values: object, key: str) -> list[Any]:
    """Return ``values[key]`` if ``values`` is a mapping that holds a list there, or nothing."""
    value = values.get(key) if isinstance(values, Mapping) else None
    return value if isinstance(value, list) else []


def first(key: str, *sources: object) -> float | None:
    """Return the number ``key`` of the first source that has it."""
    for source in sources:
        value = number(source, key)
        if value is not None:
            return value
    return None


def column(rows: list[dict[str, Any]], key: str) -> list[float]:
    """Return the finite values of one metric."""
    return [value for row in rows if (value := number(row, key)) is not None]


def count(value: float | None) -> str:
    """Format a count with three digits: ``312``, ``4.10M``."""
    if value is None:
        return MISSING
    if value < 10_000:
        return f"{value:,.0f}"
    scales = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
    scale, letter = next(pair for pair in scales if value >= 0.9995 * pair[0])
    short = value / scale
    return f"{short:.{0 if short >= 99.95 else 1 if short >= 9.995 else 2}f}{letter}"


def size(value: float | None) -> str:
    """Format bytes in decimal units: ``860 MB``, ``1.4 GB``."""
    if value is None:
        return MISSING
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if value >= scale:
            return f"{value / scale:.{0 if value >= 100 * scale else 1}f} {unit}"
    return f"{value / 1e3:.0f} kB"


def percent(value: float | None) -> str:
    """Format a share: ``87.2%``."""
    return MISSING if value is None else f"{value:.1%}"


def gap(row: Mapping[str, Any]) -> dict[str, float] | None:
    """Return how far the GPT's accuracy is above a baseline's: ``value, low, high, p``."""
    found = row.get("gpt_minus_this")
    accuracy = found.get("accuracy") if isinstance(found, Mapping) else None
    numbers = {key: number(accuracy, key) for key in ("value", "low", "high", "p")}
    known = {key: value for key, value in numbers.items() if value is not None}
    return known if len(known) == len(numbers) else None


def points(row: Mapping[str, Any]) -> str:
    """Format ``gap`` in percentage points: ``+0.4 (−0.5 to 1.3)``."""
    found = gap(row)
    if found is None:
        return ""
    value, low, high = (100 * found[key] for key in ("value", "low", "high"))
    return f"{value:+.1f} ({low:.1f} to {high:.1f})".replace("-", "−")


def loss(value: float | None) -> str:
    """Format a loss with three decimals."""
    return MISSING if value is None else f"{value:.3f}"
