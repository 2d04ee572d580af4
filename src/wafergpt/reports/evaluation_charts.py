"""The results of an evaluation as charts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wafergpt.reports import formatting as values
from wafergpt.reports.charts import ACCENT, INK, MUTED, QUIET, SECOND, Chart, literal, short
from wafergpt.reports.evaluation_tables import entries, figure, rows_of

Result = Mapping[str, Any]


def evaluation_charts(found: Mapping[str, Any]) -> list[Chart]:
    """Return the charts of results by suite; what is damaged is left out."""
    made = [
        _robustness(found.get("robustness")),
        _reliability(found.get("calibration")),
        _behaviour(found.get("behaviour")),
        *_language(found.get("language")),
        _harness(found.get("harness")),
        _frontier(found.get("cost")),
    ]
    return [chart for chart in made if chart is not None]


def _robustness(result: Any) -> Chart | None:
    found = rows_of(result, "kinds")
    clean, metric = values.number(result, "clean"), str((result or {}).get("metric"))
    points = [
        (str(one.get("kind")), values.number(one, "severity"), values.number(one, "value"))
        for one in found
    ]
    known = [(kind, s, v) for kind, s, v in points if s is not None and v is not None]
    if clean is None or not known:
        return None
    severities = sorted({s for _, s, _ in known})
    last = {kind: v for kind, s, v in known if s == severities[-1]}
    lost = {
        str(one.get("kind")): values.number(one, "drop") or 0.0
        for one in found
        if values.number(one, "severity") == severities[-1]
    }
    order = sorted(last, key=lambda kind: -lost[kind])
    colours = [QUIET, SECOND, ACCENT]
    data = [
        {
            "type": "scatter", "mode": "markers", "name": f"severity {s:g}",
            "x": [short(v) for k, t, v in known if t == s and k in last],
            "y": [order.index(k) for k, t, v in known if t == s and k in last],
            "marker": {"size": 11, "color": colours[max(0, place + 3 - len(severities))]},
            "hovertemplate": f"severity {s:g}: %{{x:.3f}}<extra></extra>",
        }
        for place, s in enumerate(severities)
    ]  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": literal(metric.replace("_", " "))}},
        "yaxis": {"tickvals": list(range(len(order))), "ticktext": list(map(literal, order)),
                  "autorange": "reversed"},
        "shapes": [{"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": clean, "x1": clean,
                    "line": {"color": INK, "dash": "dot", "width": 1.5}}],
    }  # fmt: skip
    caption = (
        f"Each kind of change at {len(severities)} severities, the most harmful kind on top. "
        f"Dotted: unchanged texts, {figure(clean, metric)}."
    )
    height = 90 + 30 * len(order)
    return Chart("robustness", "Changed texts", caption, data, layout, height=height, wide=True)


def _reliability(result: Any) -> Chart | None:
    data: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "x": [0, 1], "y": [0, 1], "name": "calibrated",
         "line": {"color": QUIET, "dash": "dot"}, "hoverinfo": "skip"}
    ]  # fmt: skip
    for name, colour in (("before", MUTED), ("after", ACCENT)):
        part = result.get(name) if isinstance(result, Mapping) else None
        bins = [
            (
                values.share(one, "confidence"),
                values.share(one, "accuracy"),
                values.number(one, "n"),
            )
            for one in rows_of(part, "reliability")
        ]
        known = [(c, a, n) for c, a, n in bins if c is not None and a is not None and n]
        if not known:
            return None
        most = max(n for *_, n in known)
        data.append({
            "type": "scatter", "mode": "lines+markers",
            "name": name if name == "before" else "after a temperature",
            "x": [short(c) for c, _, _ in known], "y": [short(a) for _, a, _ in known],
            "marker": {"size": [round(5 + 13 * (n / most) ** 0.5, 1) for *_, n in known]},
            "line": {"color": colour, "width": 2}, "customdata": [int(n) for *_, n in known],
            "hovertemplate": "probability %{x:.1%}: %{y:.1%} right, %{customdata} rows"
            "<extra></extra>",
        })  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "probability of the answer"}, "tickformat": ".0%"},
        "yaxis": {"title": {"text": "share that is right"}, "tickformat": ".0%"},
    }
    errors = [values.number(result[name], "ece") for name in ("before", "after")]
    caption = (
        f"Expected calibration error {figure(errors[0])}, and {figure(errors[1])} after a "
        f"temperature of {figure(values.number(result, 'temperature'))}; a larger mark is of more "
        "rows, and a point below the diagonal is too certain."
    )
    return Chart("reliability", "Are its probabilities right?", caption, data, layout, height=360)


def _behaviour(result: Any) -> Chart | None:
    found = [
        (str(one.get("name")), values.share(one, "failure_rate"), str(one.get("type")))
        for one in rows_of(result, "tests")
    ]
    known = [(name, rate, kind) for name, rate, kind in found if rate is not None]
    if not known:
        return None
    known.sort(key=lambda one: one[1])
    data = {
        "type": "bar", "orientation": "h", "x": [short(rate) for _, rate, _ in known],
        "y": list(range(len(known))), "marker": {"color": ACCENT},
        "hovertemplate": "%{x:.1%} of the cases fail<extra></extra>",
    }  # fmt: skip
    names = [literal(f"{name} ({kind})") for name, _, kind in known]
    layout = {
        "xaxis": {"tickformat": ".0%", "range": [0, 1], "title": {"text": "cases that fail"}},
        "yaxis": {"tickvals": data["y"], "ticktext": names},
    }
    caption = (
        "MFT: a right answer is known; INV: a change must not change the answer; DIR: it must not "
        "move the probability the wrong way."
    )
    height = 90 + 26 * len(known)
    return Chart("behaviour", "Single abilities", caption, [data], layout, height=height, wide=True)


def _language(result: Any) -> list[Chart]:
    lines = []
    colours = (ACCENT, SECOND, INK, MUTED, QUIET)
    for place, (name, one) in enumerate(entries(result, "sources")):
        points = [
            (values.number(b, "from"), values.number(b, "loss"))
            for b in rows_of(one, "by_position")
        ]
        known = [(x, y) for x, y in points if x is not None and y is not None]
        if len(known) > 1:
            lines.append({
                "type": "scatter", "mode": "lines+markers", "name": literal(name),
                "x": [x + 1 for x, _ in known], "y": [short(y) for _, y in known],
                "line": {"color": colours[place % len(colours)], "width": 2},
                "hovertemplate": "from token %{x}: %{y:.3f}<extra></extra>",
            })  # fmt: skip
    if not lines:
        return []
    layout = {
        "xaxis": {"title": {"text": "token of the document"}, "type": "log"},
        "yaxis": {"title": {"text": "loss, nats a token"}},
    }
    caption = "The loss falls where more of a document has been read."
    return [Chart("positions", "Loss by position", caption, lines, layout)]


def _harness(result: Any) -> Chart | None:
    ours = {
        name: (values.share(one, "score"), values.number(one, "stderr"))
        for name, one in entries(result, "tasks")
    }
    names = [name for name, (score, _) in ours.items() if score is not None]
    if not names:
        return None
    data: list[dict[str, Any]] = []
    for model in rows_of(result, "published"):
        scores = model.get("scores")
        known = [(n, v) for n in names if (v := values.share(scores, n)) is not None]
        if known:
            data.append({
                "type": "scatter", "mode": "markers", "name": literal(model.get("name")),
                "x": [names.index(n) for n, _ in known], "y": [short(v) for _, v in known],
                "marker": {"symbol": "line-ew-open", "size": 18, "color": MUTED},
                "hovertemplate": f"{literal(model.get('name'))}: %{{y:.1%}}<extra></extra>",
                "showlegend": False,
            })  # fmt: skip
    data.append({
        "type": "scatter", "mode": "markers", "name": "this run",
        "x": list(range(len(names))), "y": [short(ours[n][0] or 0.0) for n in names],
        "marker": {"size": 12, "color": ACCENT},
        "error_y": {"type": "data", "array": [1.96 * (ours[n][1] or 0.0) for n in names],
                    "color": ACCENT, "thickness": 1.5},
        "hovertemplate": "this run: %{y:.1%}<extra></extra>",
    })  # fmt: skip
    layout = {
        "xaxis": {"tickvals": list(range(len(names))), "ticktext": list(map(literal, names))},
        "yaxis": {"tickformat": ".0%", "title": {"text": "right answers"}},
    }
    caption = "This run with its 95% interval; grey: Cerebras-GPT of all sizes (arXiv:2304.03208)."
    return Chart("harness", "lm-evaluation-harness", caption, data, layout, height=360, wide=True)


def _frontier(result: Any) -> Chart | None:
    points = [
        (name, values.number(one, "seconds_one"), values.number(one, "value"),
         values.number(one, "weights_bytes"))
        for name, one in entries(result, "models")
    ]  # fmt: skip
    known = [(n, s, v, b) for n, s, v, b in points if s and v is not None and b]
    if len(known) < 2:
        return None
    most = max(b for *_, b in known)
    data = {
        "type": "scatter", "mode": "markers+text", "x": [short(1e3 * s) for _, s, _, _ in known],
        "y": [short(v) for _, _, v, _ in known], "text": [literal(n) for n, *_ in known],
        "textposition": "top center", "cliponaxis": False,
        "marker": {"size": [round(9 + 21 * (b / most) ** 0.5, 1) for *_, b in known],
                   "color": ACCENT, "opacity": 0.85},
        "customdata": [values.size(b) for *_, b in known],
        "hovertemplate": "%{text}: %{y:.3f}, %{x:.3g} ms, %{customdata}<extra></extra>",
    }  # fmt: skip
    metric = str(next(iter(entries(result, "models")))[1].get("metric")).replace("_", " ")
    layout = {
        "xaxis": {"title": {"text": "milliseconds for one text"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": literal(metric)}},
    }
    caption = "Further left is faster, and a smaller mark takes less memory."
    return Chart("cost", "Quality and cost", caption, [data], layout, height=360, wide=True)
