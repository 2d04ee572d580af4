"""The trials of a study as lines of a table, which grows as they are settled."""

from __future__ import annotations

import math
from collections.abc import Sequence

from wafergpt.progress import duration
from wafergpt.tuning.records import Outcome
from wafergpt.tuning.spaces import short_names
from wafergpt.tuning.study_spec import StudySpec

WIDTH = 9
"""Cells of a column at least."""


class TrialTable:
    """Lines of the same width for all trials of a study.

    Args:
        asked: what is tuned.
        outcomes: of all settled trials, which show which is best.
    """

    def __init__(self, asked: StudySpec, outcomes: Sequence[Outcome]) -> None:
        self._asked, self._outcomes = asked, outcomes
        names = short_names(asked.tuned).values()
        objectives = [name.replace("_", " ") for name in (asked.objective, *asked.also)]
        self._columns = ["trial", *names, *objectives, "time"]
        self._widths = [max(WIDTH, len(name)) for name in self._columns]
        self._widths[0] = len("trial")

    def head(self) -> str:
        """Return the names of the columns."""
        return self._joined(self._columns)

    def line(self, outcome: Outcome) -> str:
        """Return a trial: its settings, its values, its time, and what else there is to say."""
        spaces = self._asked.tuned
        settings = [
            spaces[key].written(outcome.params[key]) if key in outcome.params else "as it is"
            for key in spaces
        ]
        values = ["–"] * len(self._asked.directions)
        if outcome.values is not None:
            values = [
                f"{value:.4g}" if value >= 1e4 else f"{value:.4f}" for value in outcome.values
            ]
        cells = [str(outcome.number), *settings, *values, duration(outcome.seconds)]
        note = outcome.why or ("the default" if outcome.is_default else "")
        if not note and self._is_best(outcome):
            note = "best so far"
        return f"{self._joined(cells)}  {note}".rstrip()

    def _is_best(self, outcome: Outcome) -> bool:
        """Return whether a trial was the best when it was settled."""
        sign = 1 if self._asked.directions[0] == "min" else -1
        earlier = self._outcomes[: self._outcomes.index(outcome)]
        values = [sign * one.values[0] for one in earlier if one.values is not None]
        return outcome.values is not None and sign * outcome.values[0] < min(
            values, default=math.inf
        )

    def _joined(self, cells: Sequence[str]) -> str:
        return "  ".join(cell.rjust(w) for cell, w in zip(cells, self._widths, strict=True))
