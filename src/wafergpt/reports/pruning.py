"""A pruned run: what it was before and after, what zeros cost, and where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wafergpt.progress import duration
from wafergpt.reports import formatting as values
from wafergpt.reports.charts import ACCENT, HEAT, SURFACE, Chart, short

ROLES = {"qkv": "Q, K, V", "attention_out": "attention out", "ffn_in": "feed-forward in",
         "ffn_out": "feed-forward out"}  # fmt: skip

Result = Mapping[str, Any]


def before_and_after(result: Result) -> list[tuple[str, ...]]:
    """Return the name of each number of a pruned run, and its values before and after, and as a
    third one after it was trained on, if it was.
    """
    retraining = result.get("retraining")
    found = retraining if isinstance(retraining, Mapping) else result
    whens: tuple[str, ...] = ("before", "after")
    if "val_loss_retrained" in found:
        whens = (*whens, "retrained")
    rows: list[tuple[str, ...]] = []
    for key, name, shown in (
        ("val_loss", "validation loss", "{:.4f}".format),
        ("parameters", "weights not 0", "{:,.0f}".format),
        ("flops", "FLOPs, on paper", "{:.3g}".format),
        ("bytes", "size on disk", values.size),
        ("seconds", "an evaluation", _time),
    ):
        numbers = [values.number(found, f"{key}_{when}") for when in whens]
        if numbers[0] is not None and numbers[1] is not None:
            # A training changes losses and times alone.
            full = (numbers[1] if number is None else number for number in numbers)
            rows.append((name, *map(shown, full)))
    for name, of, left in _tables(found):
        # As many are left behind the training.
        rows.append((name, *(f"{count:,.0f}" for count in (of, left, left)[: len(whens)])))
    return rows


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else duration(seconds)


def left_of_tables(result: Result) -> str:
    """Return what is left of each table that lost rows; "" if none did."""
    return ", ".join(f"{left:,.0f} of {of:,.0f} {name}" for name, of, left in _tables(result))


def _tables(result: Result) -> list[tuple[str, float, float]]:
    """Return the name of each table that lost rows, and its rows before and after."""
    before, after = result.get("tables_before"), result.get("tables_after")
    names = after if isinstance(after, Mapping) else {}
    counts = [(str(n), values.number(before, n), values.number(after, n)) for n in names]
    return [(n, b, a) for n, b, a in counts if b is not None and a is not None and a != b]


def pruning_charts(result: Result) -> list[Chart]:
    """Return the charts that a result has measurements for."""
    return [chart for chart in (_curve(result), _alone(result), _densities(result)) if chart]


def _curve(result: Result) -> Chart | None:
    points = [
        (float(x), float(y))
        for pair in values.sequence(result, "curve")
        if isinstance(pair, list) and len(pair) == 2
        for x, y in [pair]
    ]
    before = values.number(result, "val_loss_before")
    if len(points) < 3 or before is None:
        return None
    lines = [(0.0, before), *points]
    most = max(x for x, y in lines if y <= 1.01 * before)
    caption = "Any of these sparsities raises the loss by more than 1%."
    if most:
        caption = f"Up to {most:.0%} zeros raise the loss by at most 1%."
    data = {
        "x": [short(x) for x, _ in lines], "y": [short(y) for _, y in lines],
        "mode": "lines+markers", "line": {"color": ACCENT},
        "hovertemplate": "%{x:.0%} zeros: %{y:.4f}<extra></extra>",
    }  # fmt: skip
    layout = {"xaxis": {"title": {"text": "zeros in the blocks"}, "tickformat": ".0%"},
              "yaxis": {"title": {"text": "validation loss"}}}  # fmt: skip
    return Chart("sparsity", "Loss against sparsity", caption, [data], layout)


def _alone(result: Result) -> Chart | None:
    losses = [float(loss) for loss in values.sequence(result, "alone")]
    before = values.number(result, "val_loss_before")
    if len(losses) < 2 or before is None:
        return None
    rises = [loss - before for loss in losses]
    worst = rises.index(max(rises)) + 1
    data = {
        "x": [str(number + 1) for number in range(len(rises))], "y": list(map(short, rises)),
        "type": "bar", "marker": {"color": ACCENT},
        "hovertemplate": "layer %{x} alone: %{y:+.4f}<extra></extra>",
    }  # fmt: skip
    layout = {"xaxis": {"title": {"text": "layer"}, "type": "category"},
              "yaxis": {"title": {"text": "rise of the loss"}}}  # fmt: skip
    caption = f"Pruned alone, layer {worst} of {len(rises)} costs most."
    return Chart("alone", "Sensitivity by layer", caption, [data], layout)


def _densities(result: Result) -> Chart | None:
    rows: Sequence[Any] = values.sequence(result, "densities")
    if not rows or not all(isinstance(row, dict) and row.keys() >= ROLES.keys() for row in rows):
        return None
    shares = [[float(row[role]) for row in rows] for role in ROLES]
    flat = [share for line in shares for share in line]
    if max(flat) - min(flat) < 0.01:
        # The same everywhere is no picture.
        return None
    data = {
        "type": "heatmap", "z": [list(map(short, line)) for line in shares],
        "x": [str(number + 1) for number in range(len(rows))], "y": list(ROLES.values()),
        "colorscale": [[0, SURFACE], [1, HEAT]], "zmin": 0, "zmax": 1,
        "texttemplate": "%{z:.0%}", "showscale": False,
        "hovertemplate": "layer %{x}, %{y}: %{z:.1%}<extra></extra>",
    }  # fmt: skip
    layout = {"xaxis": {"title": {"text": "layer"}, "type": "category"}}
    caption = f"Between {min(flat):.0%} and {max(flat):.0%} of a matrix is left."
    return Chart("densities", "Density by layer", caption, [data], layout)
