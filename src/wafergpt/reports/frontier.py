"""The runs that were pruned from one run, directly or through others, beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wafergpt.errors import InputError
from wafergpt.reports import formatting as values
from wafergpt.reports.charts import ACCENT, INK, MUTED, QUIET, Chart, literal, short
from wafergpt.reports.sections import Chapter
from wafergpt.runs.run import Run

APART = (0.1, 0.07)
"""Shares of the width and the height that two names are apart."""

LEAST = 0.02
"""Share of the loss that the axis shows above and below all points."""

SMALLEST, LARGEST = 9, 30
"""Pixels of the markers."""


@dataclass(frozen=True)
class Point:
    """A run: its validation loss, the seconds of an evaluation, and its bytes."""

    name: str
    loss: float
    seconds: float
    bytes: float

    @classmethod
    def of(cls, name: str, result: Mapping[str, Any], when: str) -> Point | None:
        """Read what a result says of ``before``, ``after`` or ``retrained``; None if not all."""
        loss, seconds = (values.number(result, f"{key}_{when}") for key in ("val_loss", "seconds"))
        # A training on changes no sizes.
        size = values.number(result, f"bytes_{'before' if when == 'before' else 'after'}")
        if loss is None or seconds is None or size is None or min(seconds, size) <= 0:
            return None
        return cls(name, loss, seconds, size)


def frontier_charts(chapter: Chapter) -> list[Chart]:
    """Return the chart of a pruned run, its relatives in the same folder, and their ancestor."""
    points = _relatives(chapter)
    return [_chart(points, chapter.run.name)] if len(points) > 1 else []


def _relatives(chapter: Chapter) -> list[Point]:
    """Return all points, the ancestor first."""
    if "pruned" not in _facts(chapter.result):
        return []
    folder = chapter.run.path.absolute().parent
    results = _pruned(folder, chapter)
    own = chapter.run.path.absolute().name
    ancestor = _ancestor(own, results)
    family = [name for name in results if _ancestor(name, results) == ancestor]
    # Its numbers were measured for each of those made from it: those of this run come first.
    children = [name for name in (own, *family) if _parent(results[name]) == ancestor]
    first = Point.of(ancestor, results[children[0]], "before") if children else None
    found = [first, *(Point.of(name, results[name], _last(results[name])) for name in family)]
    return [point for point in found if point is not None]


def _pruned(folder: Path, chapter: Chapter) -> dict[str, Mapping[str, Any]]:
    """Return the results of a folder's pruned runs on the same data and device, by name."""
    found: dict[str, Mapping[str, Any]] = {}
    for path in sorted(folder.iterdir()):
        try:
            run = Run(path)
            result = _facts(values.read_object(run, "result"))
            if "pruned" not in result or _measured_on(run) != _measured_on(chapter.run):
                continue
        except (InputError, OSError):
            # A damaged run has a page of its own to say it.
            continue
        found[path.name] = result
    return found


def _facts(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what was measured of a pruned run, or of one that was then trained on."""
    found = result.get("retraining")
    return found if isinstance(found, Mapping) else result


def _last(result: Mapping[str, Any]) -> str:
    return "retrained" if "val_loss_retrained" in result else "after"


def _measured_on(run: Run) -> tuple[object, ...]:
    recipe = run.recipe
    # Of a task all validation rows are evaluated.
    samples = 0 if recipe.task else recipe.train.batch_size * recipe.evaluate.batches
    return recipe.data.fingerprint, recipe.system.device, samples


def _parent(result: Mapping[str, Any]) -> str:
    return Path(str(result["pruned"])).name


def _ancestor(name: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the name of the run that a pruned run comes from in the end."""
    seen: set[str] = set()
    while name in results and name not in seen:
        seen.add(name)
        name = _parent(results[name])
    return name


def _chart(points: list[Point], own: str) -> Chart:
    largest = max(point.bytes for point in points)
    sizes = [max(SMALLEST, LARGEST * (point.bytes / largest) ** 0.5) for point in points]
    best = _best(points)
    line = {
        "x": [short(p.seconds) for p in best], "y": [short(p.loss) for p in best],
        "mode": "lines", "line": {"color": QUIET, "dash": "dot"}, "hoverinfo": "skip",
    }  # fmt: skip
    dots = {
        "x": [short(p.seconds) for p in points], "y": [short(p.loss) for p in points],
        "mode": "markers+text", "text": [literal(name) for name in _names(points, own)],
        "textposition": "top center", "textfont": {"color": INK, "size": 12}, "cliponaxis": False,
        "customdata": [[literal(p.name), values.size(p.bytes)] for p in points],
        "marker": {"size": [round(size, 1) for size in sizes],
                   "color": [ACCENT if p.name == own else MUTED for p in points], "opacity": 0.85},
        "hovertemplate": "%{customdata[0]}<br>loss %{y:.4f}, %{x:.3g} s, %{customdata[1]}"
        "<extra></extra>",
    }  # fmt: skip
    layout = {"xaxis": {"title": {"text": "seconds of an evaluation"}, "rangemode": "tozero"},
              "yaxis": {"title": {"text": "validation loss"}, "range": _range(points)},
              "showlegend": False}  # fmt: skip
    caption = (
        f"{points[0].name} and what was pruned from it. Further left is faster, lower is better, "
        "and a smaller mark takes less space; no other run is both faster and better than one on "
        "the line."
    )
    return Chart(
        "frontier", "Loss, speed and size", caption, [line, dots], layout, height=380, wide=True
    )


def _names(points: list[Point], own: str) -> list[str]:
    """Return the names to print: this run's, and those that overlap none before them."""
    low, high = _range(points)
    width = max(point.seconds for point in points)
    shown: list[Point] = []
    for point in sorted(points, key=lambda p: p.name != own):
        if all(
            abs(point.seconds - other.seconds) > APART[0] * width
            or abs(point.loss - other.loss) > APART[1] * (high - low)
            for other in shown
        ):
            shown.append(point)
    return [point.name if point in shown else "" for point in points]


def _range(points: list[Point]) -> list[float]:
    """Return the ends of the axis of losses: a small difference shall look like one."""
    low, high = (f(point.loss for point in points) for f in (min, max))
    space = max(0.2 * (high - low), LEAST * abs(high))
    return [short(low - space), short(high + space)]


def _best(points: list[Point]) -> list[Point]:
    """Return the points that no other one beats in both loss and seconds, the fastest first."""
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p.seconds, p.loss)):
        if not found or point.loss < found[-1].loss:
            found.append(point)
    return found
