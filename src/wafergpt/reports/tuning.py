"""A study of settings: its trials over time, what mattered, and each setting alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from wafergpt.files import many
from wafergpt.progress import duration
from wafergpt.reports import formatting as values
from wafergpt.reports.charts import ACCENT, MUTED, QUIET, Chart, literal, short
from wafergpt.reports.markup import table
from wafergpt.tuning.spaces import choices_of, short_names
from wafergpt.tuning.summary import amount

Result = Mapping[str, Any]

OBJECTIVES = {"latency": "Seconds of an evaluation", "size": "Parameters"}
"""Other objectives than a metric, on an axis."""

LISTED, DRAWN = 30, 100
"""Trials of the table, and lines of a chart, the best first."""

WIDE_RANGE = 10
"""Of an objective from its lowest to its highest value: a larger one has a logarithmic axis."""

FEW = 12
"""Trials whose numbers all stand at their axis."""


@dataclass(frozen=True)
class TrialRow:
    """A trial as the result of a study has it.

    Attributes:
        number: in the study.
        params: its settings by key.
        run: its name.
        values: of the objectives; none if it was not trained to its end.
        why: it has none.
        seconds: that it took.
        is_default: whether it is the recipe as it stands.
    """

    number: int
    run: str
    params: Mapping[str, Any]
    values: Sequence[float]
    why: str
    seconds: float
    is_default: bool

    @classmethod
    def of(cls, row: object) -> TrialRow | None:
        """Read a row; None if it is none."""
        if not isinstance(row, Mapping) or not isinstance(row.get("params"), Mapping):
            return None
        found = [v for v in values.sequence(row, "values") if isinstance(v, int | float)]
        return cls(
            int(values.number(row, "number") or 0),
            str(row.get("run")),
            row["params"],
            [float(value) for value in found],
            str(row.get("why") or ""),
            values.number(row, "seconds") or 0.0,
            bool(row.get("default")),
        )

    @property
    def value(self) -> float | None:
        """Of the first objective."""
        return self.values[0] if self.values else None


@dataclass(frozen=True)
class Trials:
    """The trials of a study.

    Attributes:
        objectives: the metric and what else was asked for, for people.
        spaces: what was tuned: text by key.
        lower: whether less of the objective is better.
        rows: all trials, the oldest first.
        not_beaten: runs of those that no other one beats in all objectives.
    """

    objectives: Sequence[str]
    spaces: Mapping[str, str]
    lower: bool
    rows: Sequence[TrialRow]
    not_beaten: Sequence[str] = ()

    @classmethod
    def of(cls, result: Result) -> Trials | None:
        """Read them from a run's result; None if it is no study's."""
        spaces = result.get("spaces")
        rows = [row for one in values.sequence(result, "outcomes") if (row := TrialRow.of(one))]
        if not rows or not isinstance(spaces, Mapping):
            return None
        ways = values.sequence(result, "directions")
        names = values.sequence(result, "objectives") or [result.get("metric")]
        objectives = [str(name).replace("_", " ") for name in names]
        best = [str(run) for run in values.sequence(result, "not_beaten")]
        return cls(objectives, spaces, list(ways)[:1] != ["max"], rows, best)

    @property
    def metric(self) -> str:
        """The first objective, for people."""
        return self.objectives[0]

    @property
    def ended(self) -> list[TrialRow]:
        """Those with a value."""
        return [row for row in self.rows if row.value is not None]

    @cached_property
    def names(self) -> Mapping[str, str]:
        """What each key is called here."""
        return short_names(map(str, self.spaces))

    def written(self, key: str, value: object) -> str:
        """Return a setting as it is written, with its unit."""
        if value is None:
            return "as it is"
        unit = "%" * ("%" in str(self.spaces.get(key, "")) and not isinstance(value, str))
        return f"{value:.4g}{unit}" if isinstance(value, float) else f"{value}{unit}"

    def settings(self, row: TrialRow) -> str:
        """Return the settings of a trial on one line."""
        found = (f"{self.names.get(k, k)} {self.written(k, v)}" for k, v in row.params.items())
        return literal(", ".join(found) or "the default")

    def ranked(self) -> list[TrialRow]:
        """Return those with a value, the best first."""
        sign = 1 if self.lower else -1
        return sorted(self.ended, key=lambda row: sign * (row.value or 0.0))


def tuning_charts(result: Result) -> list[Chart]:
    """Return the charts of a study; none of a result that is no study's."""
    trials = Trials.of(result)
    if trials is None or not trials.ended:
        return []
    against = [_against(trials, place) for place in range(1, len(trials.objectives))]
    drawn = [_history(trials), *against, _importances(trials, result), _parallel(trials)]
    slices = [_slice(trials, key) for key in trials.spaces]
    return [chart for chart in (*drawn, *slices) if chart is not None]


def trials_card(result: Result) -> str:
    """Return the best trials as a table in HTML; "" of a result that is no study's."""
    trials = Trials.of(result)
    if trials is None:
        return ""
    stopped = [row for row in trials.rows if row.value is None]
    rows = [*trials.ranked(), *stopped]
    others = trials.objectives[1:]
    heads = ["Trial", *trials.names.values(), f"Validation {trials.metric}"]
    heads += [*(OBJECTIVES.get(name, name) for name in others), "Time"]
    cells = [
        (
            f"{row.number}{' (default)' if row.is_default else ''}",
            *(trials.written(key, row.params.get(key)) for key in trials.spaces),
            row.why or values.MISSING if row.value is None else f"{row.value:.4f}",
            *map(amount, row.values[1:]),
            *[""] * (len(others) - len(row.values[1:])),
            duration(row.seconds),
        )
        for row in rows[:LISTED]
    ]
    more = f'<p class="aside">{len(rows) - LISTED:,} more.</p>' if len(rows) > LISTED else ""
    marked = [place for place, row in enumerate(rows) if row.run in trials.not_beaten]
    inner = table(heads, cells, marked=marked)
    return f'<div class="card wide"><h3>Trials, the best first</h3>{inner}{more}</div>'


def _history(trials: Trials) -> Chart:
    ended = trials.ended
    numbers = [row.number for row in ended]
    found = [row.value or 0.0 for row in ended]
    best = list(accumulate(found, min if trials.lower else max))
    data: list[dict[str, Any]] = [
        {
            "x": numbers, "y": list(map(short, best)), "mode": "lines", "name": "best so far",
            "line": {"color": ACCENT, "shape": "hv", "width": 2}, "hoverinfo": "skip",
        },
        {
            "x": numbers, "y": list(map(short, found)), "mode": "markers", "name": "trial",
            "marker": {"color": MUTED, "size": 7},
            "text": [trials.settings(row) for row in ended],
            "hovertemplate": "trial %{x}: %{y:.4f}<br>%{text}<extra></extra>",
        },
    ]  # fmt: skip
    default = next((row.value for row in ended if row.is_default), None)
    layout: dict[str, Any] = {
        "xaxis": {
            "title": {"text": "trial"},
            "range": [-0.5, len(trials.rows) - 0.5],
            **({"dtick": 1} if len(trials.rows) <= FEW else {}),
        },
        "yaxis": {"title": {"text": f"validation {trials.metric}"}},
    }
    caption = f"{len(ended)} of {len(trials.rows)} trials ran to their end."
    if default is not None:
        layout["shapes"] = [
            {
                "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": default, "y1": default,
                "line": {"color": QUIET, "dash": "dot", "width": 1},
            }
        ]  # fmt: skip
        caption += f" Dotted: the default, {default:.4f}."
    return Chart("history", "Trials", caption, data, layout, wide=True)


def _against(trials: Trials, place: int) -> Chart:
    """Draw another objective beside the first one; those that nothing beats stand out."""
    name = trials.objectives[place]
    rows = [row for row in trials.ended if len(row.values) > place]
    best = [row.run in trials.not_beaten for row in rows]
    data = {
        "x": [short(row.values[place]) for row in rows],
        "y": [short(row.values[0]) for row in rows],
        "mode": "markers",
        "marker": {"size": 9, "color": [ACCENT if one else QUIET for one in best]},
        "text": [f"trial {row.number}: {trials.settings(row)}" for row in rows],
        "hovertemplate": f"%{{text}}<br>{literal(trials.metric)} %{{y:.4f}}, {literal(name)} %{{x}}"
        "<extra></extra>",
    }  # fmt: skip
    found = [row.values[place] for row in rows]
    wide = min(found, default=1) > 0 and max(found, default=1) > WIDE_RANGE * min(found)
    layout = {
        "xaxis": {
            "title": {"text": OBJECTIVES.get(name, name)},
            "type": "log" if wide else "linear",
        },
        "yaxis": {"title": {"text": f"validation {trials.metric}"}},
    }
    caption = "In colour: what no other trial beats in all objectives."
    return Chart(f"against-{name}", f"{trials.metric.capitalize()} and {name}", caption, [data],
                 layout)  # fmt: skip


def _importances(trials: Trials, result: Result) -> Chart | None:
    found = result.get("importances")
    if not isinstance(found, Mapping) or not found:
        return None
    shares = sorted(((float(v), str(k)) for k, v in found.items()), key=lambda pair: pair[0])
    data = {
        "type": "bar", "orientation": "h", "x": [short(share) for share, _ in shares],
        "y": [trials.names.get(key, key) for _, key in shares], "marker": {"color": ACCENT},
        "hovertemplate": "%{y}: %{x:.0%}<extra></extra>",
    }  # fmt: skip
    layout = {"xaxis": {"tickformat": ".0%"}, "yaxis": {"type": "category"}}
    caption = "Share of what the best trials have in common that goes with each (PED-ANOVA)."
    return Chart("importances", "What mattered", caption, [data], layout)


def _parallel(trials: Trials) -> Chart | None:
    """Draw every trial as a line over all settings; plotly's own kind needs WebGL."""
    keys = list(trials.spaces)
    ranked = [row for row in trials.ranked() if all(key in row.params for key in keys)]
    without = len(trials.ended) - len(ranked)
    if len(ranked) < 5 or len(keys) < 2:
        return None
    shown = ranked[:DRAWN]
    places = [_places(trials.spaces[key], [row.params[key] for row in shown]) for key in keys]
    names = [literal(trials.names[key]) for key in keys]
    best = max(1, len(ranked) // 5)
    data: list[dict[str, Any]] = [
        {
            "x": names, "y": [short(axis[place]) for axis in places], "mode": "lines+markers",
            "line": {"color": ACCENT if place < best else QUIET, "width": 2 if place < best else 1},
            "marker": {"size": 5}, "showlegend": False, "name": str(row.number),
            "text": [trials.written(key, row.params[key]) for key in keys],
            "hovertemplate": f"trial {row.number}, {row.value:.4f}: %{{x}} %{{text}}"
            "<extra></extra>",
        }
        for place, row in enumerate(shown)
    ][::-1]  # fmt: skip
    layout = {
        "yaxis": {"tickvals": [0, 1], "ticktext": ["lowest", "highest"]},
        "xaxis": {"type": "category"},
    }
    caption = f"Each line is a trial; the best {best} of {len(ranked)} are in colour."
    if without:
        caption += f" Not drawn: {many(without, 'trial')} without one of these settings."
    return Chart("parallel", "Settings together", caption, data, layout, height=320, wide=True)


def _places(space: str, found: Sequence[Any]) -> list[float]:
    """Return where values are between the lowest, 0, and the highest, 1."""
    if any(isinstance(value, str) for value in found):
        names = choices_of(space)
        numbers = [float(names.index(str(v))) if str(v) in names else 0.0 for v in found]
    else:
        numbers = [math.log(v) if _is_log(space) and v > 0 else float(v) for v in found]
    low, high = min(numbers), max(numbers)
    return [(number - low) / (high - low) if high > low else 0.5 for number in numbers]


def _slice(trials: Trials, key: str) -> Chart | None:
    rows = [row for row in trials.ended if key in row.params]
    if len(rows) < 3:
        return None
    settings = [row.params[key] for row in rows]
    data = {
        "x": settings, "y": [short(row.value or 0.0) for row in rows],
        "mode": "markers", "text": [row.number for row in rows],
        "marker": {
            "size": 8, "color": [row.number for row in rows],
            "colorscale": [[0, QUIET], [1, ACCENT]],
        },
        "hovertemplate": "trial %{text}: %{y:.4f} at %{x}<extra></extra>",
    }  # fmt: skip
    axis: dict[str, Any] = {"type": "linear"}
    if any(isinstance(value, str) for value in settings):
        names = choices_of(trials.spaces[key])
        axis = {"type": "category", "categoryorder": "array", "categoryarray": names}
    elif _is_log(trials.spaces[key]):
        axis = {"type": "log"}
    elif all(isinstance(value, int) for value in settings) and max(settings) - min(settings) <= FEW:
        axis["dtick"] = 1
    layout = {
        "xaxis": {"title": {"text": literal(key)}, **axis},
        "yaxis": {"title": {"text": f"validation {trials.metric}"}},
    }
    caption = "One setting, over all values of the others; later trials are darker."
    name = key.replace(".", "-")
    return Chart(f"slice-{name}", literal(trials.names[key]), caption, [data], layout)


def _is_log(space: str) -> bool:
    return str(space).endswith(":log")
