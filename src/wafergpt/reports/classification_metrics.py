"""Metrics of a classifier on held-out rows, and the comparison with its baselines."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from wafergpt.evaluation.intervals import wilson
from wafergpt.reports import formatting as values
from wafergpt.reports.charts import (
    ACCENT,
    HEAT,
    INK,
    MUTED,
    ON_ACCENT,
    QUIET,
    SURFACE,
    Chart,
    literal,
)
from wafergpt.reports.sections import ClassifierMetrics

MAX_LABELS = 40
"""A confusion matrix of more labels cannot be read."""
MAX_WRITTEN = 10
"""More labels than this leave no room for counts in the cells."""
NUMBERED = 4
"""With more labels than this the columns have numbers, and the cells only counts."""

Row = Mapping[str, Any]


def ranked(comparison: object) -> list[Row]:
    """Return the rows of comparison.json that have a name and an accuracy, the best first."""
    rows = comparison if isinstance(comparison, list) else []
    valid = [row for row in rows if values.share(row, "accuracy") is not None and "name" in row]
    return sorted(valid, key=lambda row: -float(row["accuracy"]))


def comparison_chart(rows: Sequence[Row]) -> Chart | None:
    """Draw the accuracy of each model of ``ranked`` rows, the best on top."""
    if not rows:
        return None
    shares = [float(row["accuracy"]) for row in rows]
    tests = [ClassifierMetrics.of(row.get("test")) for row in rows]
    spans = [
        wilson(share, test.rows) if test.rows else (share, share)
        for share, test in zip(shares, tests, strict=True)
    ]
    bars = _accuracy_bars(shares, spans, [row.get("kind") == "gpt" for row in rows])
    words = "Share of held-out rows labelled correctly"
    layout: dict[str, Any] = {
        "xaxis": {
            "range": [0, 1.02],
            "tickvals": [0, 0.25, 0.5, 0.75, 1],
            "tickformat": ".0%",
            "fixedrange": True,
        },
        "yaxis": {
            "tickvals": bars["y"],
            "ticktext": [
                "<br>".join(map(literal, textwrap.wrap(str(row.get("name")), 18))) for row in rows
            ],
            "autorange": "reversed",
            "showgrid": False,
            "fixedrange": True,
        },
        "hovermode": False,
    }
    if any(test.rows for test in tests):
        words += "; the whiskers are 95% intervals"
    guess = next((test.majority for test in tests if test.majority is not None), None)
    if guess is not None:
        words += f"; the dotted line is always predicting the most frequent label ({guess:.1%})"
        layout["shapes"] = [
            {
                "type": "line",
                "yref": "paper",
                "x0": guess,
                "x1": guess,
                "y0": 0,
                "y1": 1,
                "line": {"color": MUTED, "width": 1.5, "dash": "dot"},
            }
        ]
    return Chart(
        "comparison", "Accuracy", f"{words}.", [bars], layout, height=60 + 56 * len(rows), wide=True
    )


def _accuracy_bars(
    shares: Sequence[float], spans: Sequence[tuple[float, float]], ours: Sequence[bool]
) -> dict[str, Any]:
    """Return plotly's horizontal bars of accuracies, with their intervals; ours stand out."""
    return {
        "type": "bar",
        "orientation": "h",
        "x": list(shares),
        "y": list(range(len(shares))),
        "width": 0.62,
        "marker": {"color": [ACCENT if gpt else QUIET for gpt in ours]},
        "text": [f"\u2002<b>{values.percent(share)}</b>" for share in shares],
        "textposition": "inside",
        "insidetextanchor": "start",
        "textfont": {"color": [ON_ACCENT if gpt else INK for gpt in ours], "size": 14},
        "hoverinfo": "skip",
        "error_x": {
            "type": "data",
            "array": [high - share for share, (_, high) in zip(shares, spans, strict=True)],
            "arrayminus": [share - low for share, (low, _) in zip(shares, spans, strict=True)],
            "color": INK,
            "thickness": 1.5,
            "width": 5,
        },
    }


def coverage_chart(test: object) -> Chart | None:
    """Draw the accuracy of the most certain answers by the share of rows that gets one."""
    points = [
        point
        for point in values.sequence(test, "risk_coverage")
        if isinstance(point, list) and len(point) == 2 and all(isinstance(n, float) for n in point)
    ]
    if len(points) < 2:
        return None
    shares, accuracies = zip(*points, strict=True)
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": list(shares),
        "y": list(accuracies),
        "line": {"color": ACCENT, "width": 2.5},
        "cliponaxis": False,
        "hovertemplate": "%{x:.0%} answered: %{y:.1%} right<extra></extra>",
    }
    layout: dict[str, Any] = {
        "xaxis": {
            "title": {"text": "rows answered, the most certain first"},
            "range": [0, 1.02],
            "tickformat": ".0%",
        },
        "yaxis": {"tickformat": ".0%", "range": [max(0.0, min(accuracies) - 0.05), 1]},
    }
    words = f"All rows: {accuracies[-1]:.1%} right"
    most = values.share(test, "accuracy_at_90")
    words += "." if most is None else f"; the most certain 90%: {most:.1%}."
    covered = values.share(test, "coverage")
    if covered is not None and covered > 0:
        x = {"yref": "paper", "x0": covered, "x1": covered, "y0": 0, "y1": 1}
        layout["shapes"] = [
            {"type": "line", **x, "line": {"color": MUTED, "width": 1.5, "dash": "dot"}}
        ]
        words += f" The dotted line is task.abstain's threshold, which answers {covered:.1%}."
    return Chart("coverage", "Accuracy by coverage", words, [line], layout)


def confusion_chart(test: ClassifierMetrics, rows: str = "held-out") -> Chart | None:
    """Draw counts and shares of each true label, true labels in rows."""
    k = len(test.labels)
    if not test.rows or k > MAX_LABELS:
        return None
    shares = [[cell / max(sum(row), 1) for cell in row] for row in test.confusion]
    numbered = k > NUMBERED
    # The room on a phone beside the cells; the table of labels has the whole names.
    room = 12 if numbered else 18
    names = [literal(n if len(n) <= room else f"{n[: room - 1]}…") for n in test.labels]
    heat = {
        "type": "heatmap",
        "z": shares,
        "zmin": 0,
        "zmax": 1,
        "x": list(range(k)),
        "y": list(range(k)),
        "customdata": [
            [[literal(true), literal(guess), n] for guess, n in zip(test.labels, row, strict=True)]
            for true, row in zip(test.labels, test.confusion, strict=True)
        ],
        "hovertemplate": "true %{customdata[0]}<br>predicted %{customdata[1]}<br>"
        "%{customdata[2]:,} rows, %{z:.1%} of its label<extra></extra>",
        "colorscale": [[0, SURFACE], [1, HEAT]],
        "showscale": False,
        "xgap": 3,
        "ygap": 3,
    }
    if k <= MAX_WRITTEN:
        form = "{0:,}" if numbered else "<b>{0:,}</b><br>{1:.1%}"
        heat["text"] = [
            [form.format(n, share) for n, share in zip(*pair, strict=True)]
            for pair in zip(test.confusion, shares, strict=True)
        ]
        heat["texttemplate"] = "%{text}"
        heat["textfont"] = {"color": INK, "size": 12 if numbered else 14}
    ticks = {"tickvals": list(range(k)), "showgrid": False, "fixedrange": True, "ticks": ""}
    layout: dict[str, Any] = {
        "xaxis": ticks
        | {
            "ticktext": [str(i + 1) for i in range(k)] if numbered else names,
            "title": {"text": "predicted"},
            "side": "top",
            "tickangle": 0,
        },
        "yaxis": ticks
        | {
            "ticktext": [f"{name}  {i + 1}" for i, name in enumerate(names)] if numbered else names,
            "title": {"text": "true"},
            "autorange": "reversed",
        },
    }
    right = sum(test.confusion[i][i] for i in range(k))
    words = f"{right:,} of {test.rows:,} {rows} rows on the diagonal, labelled correctly."
    return Chart(
        "confusion", "Confusion matrix", words, [heat], layout, height=max(300, 110 + 38 * k)
    )
