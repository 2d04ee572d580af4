"""Trials of a study as Optuna keeps them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wafergpt.tuning.samplers import RUNGS

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, TrialState

EARLY = 0.35
"""Of a rung: an evaluation so little before one, as that at a tenth, is of it."""

RUN, AGAIN, DEFAULT = "run", "again", "default"
"""Attributes of a trial: its run's name; the number of the trial that it takes up; whether it is
the recipe as it stands."""

LEFT, DEATHS, REACHED = "left", "deaths", "reached"
"""Attributes of a trial that is not settled: whether its process left it on purpose; how often one
died in it without getting further than the one before; the update that it had reached then."""

SECONDS, WHY, SCORES = "seconds", "why", "scores"
"""Attributes of a settled trial: its cost in seconds; why it has no value; its other numbers."""


@dataclass
class Trial:
    """A trial that this process has taken.

    Attributes:
        run: name of its run.
        texts: its settings as they are written, by key.
        is_default: whether it is the recipe as it stands.
    """

    run: str
    texts: Mapping[str, str]
    is_default: bool
    _trial: optuna.Trial = field(repr=False)
    _reported: set[int] = field(default_factory=set, repr=False)
    _settled: bool = field(default=False, repr=False)

    @property
    def number(self) -> int:
        """Of Optuna's, for another process of the trial; one that is taken up has a new one."""
        return self._trial.number

    def overrides(self) -> list[str]:
        """Return its settings as overrides of the recipe."""
        return [f"{key}={text}" for key, text in self.texts.items()]

    def report(self, share: float, value: float) -> bool:
        """Report a value on the way, and return whether the trial should stop.

        Args:
            share: of its updates that are made.
            value: of the one objective.
        """
        rung = int(RUNGS * share + EARLY)
        if rung and rung not in self._reported and math.isfinite(value):
            self._reported.add(rung)
            self._trial.report(value, rung)
        # The default is asked too: only as it decides does Optuna note what a trial reached.
        hopeless = rung and share < 1 and bool(self._trial.should_prune())
        return bool(hopeless) and not self.is_default


@dataclass(frozen=True)
class Outcome:
    """What became of a trial.

    Attributes:
        run: name of its run.
        params: its settings, by key, as Optuna knows them.
        values: of the objectives; None if it has none.
        why: it has none, or "".
        seconds: that it took.
        is_default: whether it was the recipe as it stands.
        scores: other numbers by name, for people.
    """

    run: str
    params: Mapping[str, Any]
    values: tuple[float, ...] | None
    why: str
    seconds: float
    is_default: bool
    scores: Mapping[str, float]

    @property
    def number(self) -> int:
        """Its place in the study, from 0."""
        return int(self.run.rpartition("-")[2])


def outcome_of(trial: FrozenTrial) -> Outcome:
    """Return what became of a settled trial."""
    attributes = trial.user_attrs
    ended = trial.state is state_of("COMPLETE")
    return Outcome(
        attributes[RUN],
        trial.params,
        tuple(trial.values) if ended else None,
        attributes.get(WHY, ""),
        attributes.get(SECONDS, 0.0),
        DEFAULT in attributes,
        attributes.get(SCORES, {}),
    )


def state_of(name: str) -> TrialState:
    """Return a state of Optuna's by its name."""
    import optuna

    return optuna.trial.TrialState[name]
