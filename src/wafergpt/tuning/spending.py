"""What the trials of a study cost, and whether another one fits into the budget."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from wafergpt.config import Recipe
from wafergpt.planning.budget import Budget
from wafergpt.progress import duration
from wafergpt.tuning.records import Outcome
from wafergpt.tuning.study_spec import StudySpec


@dataclass(frozen=True)
class Spending:
    """A budget of all trials.

    Attributes:
        budget: of time or FLOPs; None for no limit.
        workers: that make trials at the same time.
    """

    budget: Budget | None
    workers: int

    def may_go_on(self, outcomes: Sequence[Outcome], running: int) -> bool:
        """Return whether a trial as costly as those before is expected to fit.

        Args:
            outcomes: of the settled trials.
            running: how many others are being made, which cost as much.
        """
        if self.budget is None or not outcomes:
            return True
        whole = [one for one in outcomes if one.values is not None] or outcomes
        expected = statistics.fmean(map(self._cost, whole))
        return self._spent(outcomes) + (running + 1) * expected <= self.budget.amount

    def has_room_for(self, recipe: Recipe, asked: StudySpec, outcomes: Sequence[Outcome]) -> bool:
        """Return whether a trial that may be longer than the default is expected to fit.

        Args:
            recipe: of the trial.
            asked: the study.
            outcomes: of the settled trials.

        Raises:
            InputError: if the trial is impossible.
        """
        default = next((one for one in outcomes if one.is_default and one.values), None)
        if self.budget is None or default is None:
            return True
        one, usual = (plan.cost(self.budget.kind) for plan in (asked.plan_of(recipe), asked.plan))
        expected = self._cost(default) * one / usual
        return self._spent(outcomes) + expected <= self.budget.amount

    def left(self, outcomes: Sequence[Outcome]) -> str:
        """Return what is left, for people; "" without a limit."""
        if self.budget is None:
            return ""
        left = max(0.0, self.budget.amount - self._spent(outcomes))
        return f"{duration(left) if self.budget.kind == 'seconds' else f'{left:.2g} FLOPs'} left"

    def _spent(self, outcomes: Sequence[Outcome]) -> float:
        return sum(map(self._cost, outcomes))

    def _cost(self, outcome: Outcome) -> float:
        if self.budget is not None and self.budget.kind == "flops":
            return outcome.scores.get("flops", 0.0)
        return outcome.seconds / self.workers
