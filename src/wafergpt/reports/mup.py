"""The page of a coordinate check: how much each layer's output changes, by width."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wafergpt import atomic_files
from wafergpt.config import Recipe
from wafergpt.reports.charts import ACCENT, MUTED, SECOND, Chart, short
from wafergpt.reports.document import Document
from wafergpt.reports.markup import escape, table
from wafergpt.tuning.coordinate_check import TOLERANCE, CoordinateCheck, may_fall

NAMES = {"mup": "µP", "sp": "standard"}


def write_check(found: Mapping[str, CoordinateCheck], recipe: Recipe, out: Path) -> None:
    """Write the page of a coordinate check of µP, with the standard parametrization beside it.

    Args:
        found: the checks by parametrization: ``mup`` and ``sp``.
        recipe: the recipe that was checked.
        out: the file to write.

    Raises:
        InputError: if plotly is not installed.
    """
    page = Document()
    mup = found["mup"]
    lead = (
        f"{mup.steps} updates of {recipe.optimizer.name} at a learning rate of "
        f"{recipe.optimizer.lr:g}, {recipe.model.n_layers} layers, {mup.n_heads} heads; "
        f"widths {', '.join(map(str, mup.widths))}. Each line is one layer: the mean size of the "
        "change of its output since initialization."
    )
    page.add(
        f'<header><p class="eyebrow"><span>wafergpt</span><b>mup check</b></p>'
        f'<h1 class="verdict">{escape(mup.verdict)}</h1></header>'
        f'<section><h2>Coordinate check</h2><p class="lead">{escape(lead)}</p>'
        '<div class="charts">'
        + "".join(page.chart(chart, "") for chart in _changes(found))
        + page.chart(_slopes(found), "")
        + f'<div class="card wide"><h3>The same in numbers</h3>{_numbers(found)}</div>'
        "</div></section>"
    )
    atomic_files.write_text(out, page.html("mup check · wafergpt"))


def _changes(found: Mapping[str, CoordinateCheck]) -> list[Chart]:
    """Draw both on one scale, so that they can be compared."""
    # Changes of different layers differ in size; only their slope matters.
    relative = {
        kind: {name: [value / values[0] for value in values] for name, values in c.changes.items()}
        for kind, c in found.items()
    }
    every = [v for lines in relative.values() for values in lines.values() for v in values]
    span = [math.log10(min(every)) - 0.1, math.log10(max(every)) + 0.1]
    return [_change(kind, check, relative[kind], {"range": span}) for kind, check in found.items()]


def _change(
    kind: str, check: CoordinateCheck, lines: Mapping[str, list[float]], yaxis: dict[str, Any]
) -> Chart:
    colour = ACCENT if kind == "mup" else SECOND
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": list(check.widths),
            "y": [short(value) for value in values],
            "line": {
                "color": colour,
                "width": 1.5,
                "dash": "dot" if may_fall(name) else "solid",
            },
            "marker": {"color": colour, "size": 5},
            "opacity": 0.7,
            "hovertemplate": f"%{{y:.2f}}<extra>{escape(name)}</extra>",
        }
        for name, values in lines.items()
    ]
    steepest = max(check.slopes.items(), key=lambda item: item[1])
    axes = _log_axes(check.widths, "Change, relative")
    axes["yaxis"] |= yaxis
    return Chart(
        f"changes-{kind}",
        f"Change by width, {NAMES[kind]}",
        f"Against the narrowest width. The steepest rise is {steepest[0]}, with a slope of "
        f"{steepest[1]:+.2f}. Dotted: may fall.",
        data,
        axes | {"showlegend": False},
        height=360,
    )


def _slopes(found: Mapping[str, CoordinateCheck]) -> Chart:
    names = list(found["mup"].slopes)
    data = [
        {
            "type": "bar",
            "name": NAMES[kind],
            "x": names,
            "y": [short(check.slopes[name]) for name in names],
            "marker": {"color": ACCENT if kind == "mup" else SECOND},
            "hovertemplate": f"%{{y:+.2f}}<extra>{NAMES[kind]}</extra>",
        }
        for kind, check in found.items()
    ]
    return Chart(
        "slopes",
        "Slope of each layer",
        "Of log change over log width. Dotted: ±0.15, within which nothing depends on the width.",
        data,
        {
            "yaxis": {"title": {"text": "Slope"}},
            "barmode": "group",
            "showlegend": True,
            "shapes": [
                {
                    "type": "line",
                    "xref": "paper",
                    "x0": 0,
                    "x1": 1,
                    "y0": edge,
                    "y1": edge,
                    "line": {"color": MUTED, "width": 1, "dash": "dot"},
                }
                for edge in (-TOLERANCE, TOLERANCE)
            ],
        },
        height=360,
        wide=True,
    )


def _numbers(found: Mapping[str, CoordinateCheck]) -> str:
    mup, plain = found["mup"], found["sp"]
    rows = [
        (name, f"{slope:+.2f}", f"{plain.slopes[name]:+.2f}") for name, slope in mup.slopes.items()
    ]
    rows.append(("initial logits", f"{mup.logits_slope:+.2f}", f"{plain.logits_slope:+.2f}"))
    return table(("Slope", "µP", "standard"), rows)


def _log_axes(widths: Sequence[int], title: str) -> dict[str, Any]:
    return {
        "xaxis": {
            "type": "log",
            "title": {"text": "d_model"},
            "tickvals": list(widths),
            "ticktext": [str(width) for width in widths],
        },
        "yaxis": {"type": "log", "title": {"text": title}},
    }
