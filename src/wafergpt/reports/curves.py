"""The curves of a run: one metric over tokens, time or steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from wafergpt.reports import formatting as values
from wafergpt.reports.charts import ACCENT, SECOND, Chart, short
from wafergpt.reports.sections import Chapter

Row = dict[str, Any]

NAMES = {
    "val_macro_f1": "macro-F1", "val_f1": "F1", "val_recall_at_5": "recall@5", "val_mrr": "MRR",
    "val_ndcg_at_10": "NDCG@10",
}  # fmt: skip
"""Of metrics in a chart, where they are not the keys."""

MAX_POINTS = 1000
MIN_SMOOTHED = 40
"""Fewer points than this are drawn as they are."""

LEAST_SHARES = 0.01
"""Shares that differ by less do not fill the axis, whose ticks would need five digits."""


def curves(chapter: Chapter) -> list[Chart]:
    """Return the charts of the metrics that the run has, the losses first."""
    axes = _axes(chapter.rows)
    lines: list[tuple[list[str], str, Callable[[list[float]], str], str]] = [
        (["val_bits_per_byte"], "Bits per byte", _fell, ".3f"),
        (["val_accuracy", "val_macro_f1"], "Validation accuracy",
         lambda found: f"Best accuracy {values.percent(max(found))}.", ".1%"),
        (["val_f1", "val_word_accuracy"], "Validation F1",
         lambda found: f"Best F1 {values.percent(max(found))}.", ".1%"),
        (["val_recall_at_5", "val_mrr"], "Validation recall",
         lambda found: f"Best recall among the first five {values.percent(max(found))}.", ".1%"),
        (["val_ndcg_at_10", "val_mrr"], "Validation NDCG",
         lambda found: f"Best NDCG@10 {max(found):.3f}.", ".3g"),
        (["lr"], "Learning rate",
         lambda found: f"Peak {max(found):.3g}, {chapter.recipe.schedule.name} schedule.", ".3g"),
        (["grad_norm"], "Gradient norm", _clipped(chapter), ".3g"),
        (["tokens_per_second"], "Throughput",
         lambda found: f"Median {values.count(_median(found))} tokens per second.", ".3s"),
        (["mfu"], "Model FLOPs utilisation",
         lambda found: f"Median {values.percent(_median(found))} of the measured peak.", ".1%"),
        (["memory_bytes"], "Memory", lambda found: f"Peak {values.size(max(found))}.", ".3s"),
    ]  # fmt: skip
    charts = [_losses(chapter, axes), *(_line(chapter, axes, *line) for line in lines)]
    return [chart for chart in charts if chart]


def _axes(rows: Sequence[Row]) -> dict[str, tuple[str, float]]:
    """Return the horizontal axes that every row has: key → title and unit."""
    found = {}
    unit, name = 1.0, "seconds"
    if rows:
        seconds = values.number(rows[-1], "seconds") or 0.0
        unit, name = (
            (3600.0, "hours")
            if seconds > 7200
            else (60.0, "minutes")
            if seconds > 120
            else (1.0, "seconds")
        )
    titles = {
        "tokens": ("Tokens", 1.0),
        "seconds": (f"Time ({name})", unit),
        "step": ("Step", 1.0),
    }
    for key, title in titles.items():
        if all(values.number(row, key) is not None for row in rows):
            found[key] = title
    return found


def _losses(chapter: Chapter, axes: dict[str, tuple[str, float]]) -> Chart | None:
    train, validated = _having(chapter.rows, "loss"), _having(chapter.rows, "val_loss")
    if not train and not validated:
        return None
    data, words = [], []
    if train:
        data += _raw_and_smoothed(train, "loss", axes, "training", ".3f")
        words.append(f"Training loss {train[0]['loss']:.3f} → {_smooth(train, 'loss')[-1]:.3f}")
    if validated:
        best = min(validated, key=lambda row: float(row["val_loss"]))
        trace = _trace(validated, [row["val_loss"] for row in validated], axes, "validation", ".3f")
        trace |= {
            "mode": "lines+markers",
            "line": {"color": SECOND, "width": 2.5},
            "marker": {"color": SECOND, "size": 7},
        }
        data.append(trace)
        words.append(f"lowest validation loss {best['val_loss']:.3f}, at step {best['step']:,}")
    text = "; ".join(words)
    task = chapter.recipe.task
    # That of a regression is a squared difference.
    unit = "Loss" if task is not None and task.name == "regress" else "Loss (nats)"
    return Chart(
        "loss",
        "Loss",
        text[:1].upper() + text[1:] + ".",
        data,
        {"yaxis": {"title": {"text": unit}}, "showlegend": True},
        {key: title for key, (title, _) in axes.items()},
        wide=True,
    )


def _line(
    chapter: Chapter,
    axes: dict[str, tuple[str, float]],
    keys: Sequence[str],
    title: str,
    words: Callable[[list[float]], str],
    form: str,
) -> Chart | None:
    """Draw the metrics ``keys`` in one small chart, if the run has the first of them."""
    found = values.column(chapter.rows, keys[0])
    # A single evaluation is no curve: the numbers at the top say it.
    if not found or (keys[0].startswith("val_") and len(found) == 1):
        return None
    data = []
    for key, colour in zip(keys, (ACCENT, SECOND), strict=False):
        rows = _having(chapter.rows, key)
        if key.startswith("val_") and rows:
            name = NAMES.get(key) or key.removeprefix("val_").replace("_", " ")
            trace = _trace(rows, [row[key] for row in rows], axes, name, form)
            trace |= {
                "mode": "lines+markers",
                "line": {"color": colour, "width": 2},
                "marker": {"color": colour, "size": 6},
            }
            data.append(trace)
        elif rows:
            data += _raw_and_smoothed(rows, key, axes, title.lower(), form)
    yaxis: dict[str, Any] = {"tickformat": f"~{form[-1]}" if form[-1] in "s%g" else "", "nticks": 5}
    if not keys[0].startswith("val_"):
        yaxis["rangemode"] = "tozero"
    elif form[-1] == "%":
        low, high = (f(y for trace in data for y in trace["y"]) for f in (min, max))
        if high - low < LEAST_SHARES:
            yaxis["range"] = [short(low - LEAST_SHARES), short(high + LEAST_SHARES)]
    if keys[0] == "memory_bytes":
        yaxis["ticksuffix"] = "B"
    layout = {
        "yaxis": yaxis,
        "showlegend": sum(trace.get("showlegend", True) for trace in data) > 1,
    }
    titles = {key: axis for key, (axis, _) in axes.items()}
    return Chart(keys[0].replace("_", "-"), title, words(found), data, layout, titles)


def _raw_and_smoothed(
    rows: list[Row], key: str, axes: dict[str, tuple[str, float]], name: str, form: str
) -> list[dict[str, Any]]:
    if len(rows) < MIN_SMOOTHED or key == "lr":
        kept = _thin(rows, key)
        trace = _trace(kept, [row[key] for row in kept], axes, name, form)
        return [trace | {"line": {"color": ACCENT, "width": 2}}]
    kept = _thin(rows, key)
    raw = _trace(kept, [row[key] for row in kept], axes, name, form)
    raw |= {
        "line": {"color": ACCENT, "width": 1},
        "opacity": 0.3,
        "hoverinfo": "skip",
        "showlegend": False,
    }
    del raw["hovertemplate"]
    every = math.ceil(len(rows) / (MAX_POINTS // 2))
    picked = sorted({*range(0, len(rows), every), len(rows) - 1})
    smooth = _smooth(rows, key)
    line = _trace([rows[i] for i in picked], [smooth[i] for i in picked], axes, name, form)
    return [raw, line | {"line": {"color": ACCENT, "width": 2.5}}]


def _trace(
    rows: Sequence[Row],
    y: Sequence[float],
    axes: dict[str, tuple[str, float]],
    name: str,
    form: str,
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines" if len(rows) > 1 else "markers",
        "name": name,
        "x": {key: [short(row[key] / unit) for row in rows] for key, (_, unit) in axes.items()},
        "y": [short(value) for value in y],
        "marker": {"color": ACCENT, "size": 7},
        "hovertemplate": f"%{{y:{form}}}<extra>{name}</extra>",
    }


def _having(rows: list[Row], key: str) -> list[Row]:
    return [row for row in rows if values.number(row, key) is not None]


def _thin(rows: list[Row], key: str) -> list[Row]:
    """Keep the lowest and the highest row of each segment, so that no spike is lost."""
    if len(rows) <= MAX_POINTS:
        return rows
    length = math.ceil(len(rows) / (MAX_POINTS // 2))
    kept: set[int] = {0, len(rows) - 1}
    for start in range(0, len(rows), length):
        stretch = range(start, min(start + length, len(rows)))
        kept.add(min(stretch, key=lambda i: float(rows[i][key])))
        kept.add(max(stretch, key=lambda i: float(rows[i][key])))
    return [rows[i] for i in sorted(kept)]


def _smooth(rows: list[Row], key: str) -> list[float]:
    """Return the mean of each row and its neighbours, 2% of the run to either side."""
    reach = len(rows) // 50 if len(rows) >= MIN_SMOOTHED else 0
    sums = [0.0, *accumulate(float(row[key]) for row in rows)]
    means = []
    for i in range(len(rows)):
        # The first losses fall steeply: look no farther ahead than back there.
        start, stop = i - min(reach, i), min(i + min(reach, i), len(rows) - 1) + 1
        means.append((sums[stop] - sums[start]) / (stop - start))
    return means


def _median(found: list[float]) -> float:
    return sorted(found)[len(found) // 2]


def _fell(found: list[float]) -> str:
    return f"{found[0]:.3f} → {found[-1]:.3f} on validation text."


def _clipped(chapter: Chapter) -> Callable[[list[float]], str]:
    clip = chapter.recipe.optimizer.clip

    def words(found: list[float]) -> str:
        if not clip:
            return "Not clipped."
        share = sum(norm > clip for norm in found) / len(found)
        return f"Clipped to {clip:g} in {share:.0%} of the steps."

    return words
