"""Where right texts were found, and how good rankings were, as charts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wafergpt.reports import formatting as values
from wafergpt.reports.charts import ACCENT, Chart

Counts = list[tuple[str, int]]


def retrieval_charts(result: Mapping[str, Any]) -> list[Chart]:
    """Return the charts that a result has counts for, of test rows or else of validation rows."""
    rows, metrics = evaluated(result)
    found = [
        _ranks(_counts(metrics.get("ranks")), rows),
        _gains(metrics.get("ndcgs"), rows),
    ]
    return [chart for chart in found if chart]


def evaluated(result: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the name of the rows that a run was judged on last, and its metrics."""
    for key, name in (("test", "test"), ("metrics", "validation")):
        metrics = result.get(key)
        if isinstance(metrics, Mapping):
            return name, metrics
    return "", {}


def finding(result: Mapping[str, Any]) -> str:
    """Return a sentence on how well texts are found or ranked; "" if it is not known."""
    rows, metrics = evaluated(result)
    recall, gain = (values.share(metrics, key) for key in ("recall_at_5", "ndcg_at_10"))
    many = values.number(metrics, "candidates")
    if recall is not None:
        among = "" if many is None else f" of {many:,.0f}"
        return (
            f"For {values.percent(recall)} of the {rows} queries a right text is among the first "
            f"five{among}."
        )
    if gain is not None:
        return f"The {rows} queries' candidates are ranked with an NDCG@10 of {gain:.3f}."
    return ""


def scores(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, value and note of the metrics that are known."""
    _, metrics = evaluated(result)
    named = (
        ("Recall@5", "recall_at_5", values.percent),
        ("Recall@1", "recall_at_1", values.percent),
        ("NDCG@10", "ndcg_at_10", values.loss),
        ("MRR", "mrr", values.loss),
        ("MAP", "map", values.loss),
    )
    found = [(name, show(values.share(metrics, key)), "") for name, key, show in named]
    return [one for one in found if one[1] != values.MISSING]


def _counts(found: object) -> Counts:
    if not isinstance(found, Mapping):
        return []
    return [(str(k), n) for k, n in found.items() if type(n) is int and 0 <= n < 1 << 53]


def _ranks(counts: Counts, rows: str) -> Chart | None:
    total = sum(n for _, n in counts)
    if not total:
        return None
    names = [name for name, _ in counts]
    labels = [_span(names, place) for place in range(len(names))]
    data = {
        "x": labels, "y": [n for _, n in counts], "type": "bar", "marker": {"color": ACCENT},
        "hovertemplate": "rank %{x}: %{y} queries<extra></extra>",
    }  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "rank of the first right text"}, "type": "category"},
        "yaxis": {"title": {"text": f"{rows} queries"}},
    }
    first = f"{counts[0][1] / total:.1%} of {total:,} queries have it first."
    return Chart("ranks", "Where the right text is", first, [data], layout)


def _span(names: list[str], place: int) -> str:
    """Return the ranks of a class, which is named by its last one."""
    before = names[place - 1] if place else "0"
    if not before.isdecimal():
        return names[place]
    if not names[place].isdecimal():
        return f"> {before}"
    low, high = int(before) + 1, int(names[place])
    return str(high) if low >= high else f"{low}–{high}"


def _gains(found: object, rows: str) -> Chart | None:
    counts = [n for n in found if type(n) is int and n >= 0] if isinstance(found, list) else []
    if not sum(counts):
        return None
    width = 1 / len(counts)
    data = {
        "x": [f"{place * width:.1f}–{(place + 1) * width:.1f}" for place in range(len(counts))],
        "y": counts, "type": "bar", "marker": {"color": ACCENT},
        "hovertemplate": "NDCG %{x}: %{y} queries<extra></extra>",
    }  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "NDCG@10 of a query"}, "type": "category"},
        "yaxis": {"title": {"text": f"{rows} queries"}},
    }
    caption = f"{counts[-1] / sum(counts):.1%} of {sum(counts):,} queries are above 0.9."
    return Chart("ndcgs", "How good the rankings are", caption, [data], layout)
