"""The folds of a cross-validation: a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wafergpt.reports.formatting import MISSING, count, number, sequence
from wafergpt.reports.markup import escape, table

CAPTION = (
    "Each row is judged by the network of the fold that held it out. ± is the standard deviation "
    "over folds; the interval is that of the rows: chance in the training is not in it."
)


def folds_of(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a run's result knows of folds; empty if there are none."""
    found = result.get("folds")
    return found if isinstance(found, Mapping) else {}


def fold_table(result: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return the heads and rows of a table: the folds, their mean, and all rows together.

    Args:
        result: of a run, in which anything may be missing.
    """
    folds = folds_of(result)
    mean, deviation = (folds.get(key) for key in ("mean", "deviation"))
    names = [str(name) for name in mean] if isinstance(mean, Mapping) else []
    heads = ["Fold", "Rows", "Passes", *(name.replace("_", " ") for name in names)]
    rows = []
    for place, row in enumerate(sequence(folds, "done"), 1):
        metrics = row.get("metrics") if isinstance(row, Mapping) else None
        passes = number(row, "epochs")
        shown = MISSING if passes is None else f"{passes:.3g}"
        values = (_value(number(metrics, name)) for name in names)
        rows.append((str(place), count(number(row, "rows")), shown, *values))
    if not rows:
        return heads, rows
    spread = (f"{_value(number(mean, n))} ± {_value(number(deviation, n))}" for n in names)
    rows.append(("mean", "", "", *spread))
    metrics, intervals = result.get("metrics"), result.get("intervals")
    if isinstance(metrics, Mapping):
        cells = (_with_interval(number(metrics, n), sequence(intervals, n)) for n in names)
        rows.append(("all rows", count(number(folds, "rows")), "", *cells))
    return heads, rows


def folds_card(result: Mapping[str, Any]) -> str:
    """Return the table of ``fold_table`` as HTML; "" if there are no folds."""
    heads, rows = fold_table(result)
    if not rows:
        return ""
    inner = table(heads, rows, marked=(len(rows) - 1,))
    return (
        f'<div class="card wide"><h3>Fold by fold</h3>{inner}'
        f'<p class="aside">{escape(CAPTION)}</p></div>'
    )


def _value(value: float | None) -> str:
    return MISSING if value is None else f"{value:.4f}"


def _with_interval(value: float | None, ends: list[Any]) -> str:
    known = [end for end in ends if isinstance(end, float)]
    return _value(value) + (f" ({known[0]:.4f} to {known[1]:.4f})" if len(known) == 2 else "")
